"""The model that the settings name, with the name under which the API serves it."""

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from engine.checkpoints.catalogue import Question
from engine.checkpoints.resolve import resolve
from engine.errors import ModelUnavailable
from gateway.errors import StartupFailure
from gateway.settings import Settings

Progress: TypeAlias = Callable[[str], None]


class ServedModel(Struct, frozen=True):
    """`location`: an absolute folder or a hub name. `question`: one that it answers well."""

    name: str
    location: str
    question: Question


def served_model(settings: Settings, say: Progress = lambda _: None) -> ServedModel:
    """The model of `LMAAS_MODEL`, under the name `LMAAS_MODEL_NAME`, else its own.

    A GGUF file is converted first. StartupFailure if the model is not there or not served.
    """
    try:
        model = resolve(settings.model, settings.data_folder, say)
    except ModelUnavailable as error:
        raise StartupFailure(str(error)) from error
    return ServedModel(settings.model_name or model.name, model.location, model.question)
