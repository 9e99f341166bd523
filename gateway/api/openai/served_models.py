"""`GET /v1/models`: the models served here."""

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from gateway.generation.service import GenerationService
from gateway.tenancy.authentication import Caller


class ServedModel(Struct):
    """One model, in OpenAI's form."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "lmaas"


class ServedModels(Struct):
    """All models."""

    data: list[ServedModel]
    object: str = "list"


class ModelsController(Controller):
    """What can be asked."""

    path = "/models"

    @get(summary="List the served models")
    async def list_models(
        self, caller: NamedDependency[Caller], generations: NamedDependency[GenerationService]
    ) -> ServedModels:
        """Every model this gateway serves."""
        del caller  # any key may look
        return ServedModels([_served(generations)])

    @get("/{model:path}", summary="Show one served model")
    async def show_model(
        self,
        model: FromPath[str],
        caller: NamedDependency[Caller],
        generations: NamedDependency[GenerationService],
    ) -> ServedModel:
        """One model by its name; 404 where it is not served."""
        del caller
        generations.check_model(model.removeprefix("/"))
        return _served(generations)


def _served(generations: GenerationService) -> ServedModel:
    return ServedModel(generations.model, generations.started_at)
