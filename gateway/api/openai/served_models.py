"""`GET /v1/models`: the served models."""

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from gateway.generation.service import GenerationService
from gateway.tenancy.authentication import Caller


class ServedModel(Struct):
    """One model, in OpenAI's format."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "lmaas"


class ServedModels(Struct):
    """All models."""

    data: list[ServedModel]
    object: str = "list"


class ModelsController(Controller):
    """Lists the served models."""

    path = "/models"

    @get(summary="List the served models")
    async def list_models(
        self, caller: NamedDependency[Caller], service: NamedDependency[GenerationService]
    ) -> ServedModels:
        """Every model this gateway serves."""
        del caller  # the guard admits any key
        return ServedModels([_served(service)])

    @get("/{model:path}", summary="Show one served model")
    async def show_model(
        self,
        model: FromPath[str],
        caller: NamedDependency[Caller],
        service: NamedDependency[GenerationService],
    ) -> ServedModel:
        """One model by name; 404 if it is not served."""
        del caller
        service.check_model(model.removeprefix("/"))
        return _served(service)


def _served(service: GenerationService) -> ServedModel:
    return ServedModel(service.model, service.started_at)
