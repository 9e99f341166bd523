"""What `LMAAS_MODEL` names: a model of the catalogue, a GGUF file, a folder, or a hub name."""

from pathlib import Path
from typing import Final

from msgspec import Struct

from engine.checkpoints.catalogue import (
    ANY_QUESTION,
    CATALOGUE,
    DEMO,
    SMOLLM2,
    CatalogueModel,
    Question,
    catalogue_folder,
    is_fetched,
    model_named,
)
from engine.checkpoints.gguf_cache import converted
from engine.checkpoints.placing import Say
from engine.errors import ModelUnavailable

SUFFIX: Final = ".gguf"
PATHS: Final = ("/", "./", "../", "~")  # how a path begins, and no name on the hub


class Checkpoint(Struct, frozen=True):
    """A model to serve. `location` is an absolute folder, or a name on the Hugging Face hub."""

    name: str
    location: str
    question: Question = ANY_QUESTION


def resolve(model: str | None, data_folder: Path, say: Say) -> Checkpoint:
    """The model that `LMAAS_MODEL` names; unset: the fetched one, else the demo model.

    A GGUF file is converted first. Nothing is downloaded. ModelUnavailable gives the reason.
    """
    if model is None:
        return _of_catalogue(default_model(data_folder), data_folder)
    if named := model_named(model):
        return _of_catalogue(named, data_folder)
    if file := gguf_file(model):
        try:
            return Checkpoint(file.stem, str(converted(file, data_folder, say).absolute()))
        except ModelUnavailable as error:
            raise ModelUnavailable(f"LMAAS_MODEL: {error}") from error
    path = Path(model).expanduser()
    if path.is_dir():
        return _of_folder(path.absolute(), data_folder)
    if model.startswith(PATHS):
        raise ModelUnavailable(f"LMAAS_MODEL: there is no folder {model}")
    return Checkpoint(model, model)


def gguf_file(model: str | None) -> Path | None:
    """The file, if `LMAAS_MODEL` names a file and not a model or a folder."""
    if model is None or model_named(model):
        return None
    path = Path(model).expanduser()
    return path if path.suffix.lower() == SUFFIX or path.is_file() else None


def default_model(data_folder: Path) -> CatalogueModel:
    """What is served where `LMAAS_MODEL` is not set."""
    return SMOLLM2 if is_fetched(SMOLLM2, data_folder) else DEMO


def _of_catalogue(model: CatalogueModel, data_folder: Path) -> Checkpoint:
    if not is_fetched(model, data_folder):
        raise ModelUnavailable(
            f"LMAAS_MODEL: {model.name} is not in {data_folder}: `lmaas models fetch {model.name}` "
            "fetches it"
        )
    folder = catalogue_folder(model, data_folder).absolute()
    return Checkpoint(model.served_name, str(folder), model.question)


def _of_folder(folder: Path, data_folder: Path) -> Checkpoint:
    """A folder; the catalogue's own ones have their questions."""
    for model in CATALOGUE:
        if catalogue_folder(model, data_folder).resolve() == folder.resolve():
            return Checkpoint(model.served_name, str(folder), model.question)
    return Checkpoint(folder.name, str(folder))
