"""Checks the model's folder: files, tokenizer and chat template."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from msgspec import Struct

from engine.checkpoints.conversion import check_packages
from engine.checkpoints.gguf_cache import conversion_folder
from engine.checkpoints.resolve import gguf_file
from engine.errors import ModelUnavailable
from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.errors import InvalidRequest, LmaasError, StartupFailure
from gateway.generation.text.tokenizer import FETCHED_FILES, ChatTokenizer
from gateway.served_model import ServedModel, served_model
from gateway.settings import Settings

REMEDY: Final = "set LMAAS_MODEL to a complete model folder, or to demo"
HELLO: Final = [{"role": "user", "content": "hello"}]


class _Configuration(Struct):
    model_type: str


def local_folder(settings: Settings) -> Path | None:
    """The model's folder on this machine; nothing is downloaded or converted. None: no folder."""
    try:
        return None if _unconverted(settings) else _local_folder(served_model(settings).location)
    except (ModelUnavailable, StartupFailure):
        return None


def _unconverted(settings: Settings) -> Path | None:
    """The GGUF file to serve, unless it is converted. ModelUnavailable if it is no GGUF file."""
    file = gguf_file(settings.model)
    if file is None or conversion_folder(file, settings.data_folder, lambda _: None).is_dir():
        return None
    check_packages()
    return file


def _local_folder(location: str) -> Path | None:
    if Path(location).is_dir():
        return Path(location)
    try:
        return Path(
            snapshot_download(location, allow_patterns=list(FETCHED_FILES), local_files_only=True)
        )
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def check_model(settings: Settings) -> Iterator[Finding]:
    """Whether the folder is complete, and the chat template renders a conversation."""
    try:
        if file := _unconverted(settings):
            yield ok("model", f"{file} is converted at the next start")
            return
        model = served_model(settings)
    except (ModelUnavailable, StartupFailure) as error:
        yield failure("model", str(error), REMEDY)
        return
    folder = _local_folder(model.location)
    if folder is None:
        yield _absent(model.location)
        return
    yield from _check_folder(model, folder)


def _check_folder(model: ServedModel, folder: Path) -> Iterator[Finding]:
    try:
        kind = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Configuration)
        tokenizer = ChatTokenizer(folder)
        tokens = len(tokenizer.encode_chat(HELLO))
    except OSError as error:
        yield failure("model", f"{error.filename}: {error.strerror}", REMEDY)
        return
    except (LmaasError, msgspec.MsgspecError) as error:
        yield failure("model", f"{folder}: {error}", REMEDY)
        return
    except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself
        yield failure("model", f"{folder}: its tokenizer does not load: {error}", REMEDY)
        return
    if folder == Path(model.location) and not any(folder.glob("*.safetensors")):
        yield failure("model", f"{folder} has no *.safetensors", REMEDY)
        return
    yield ok(
        "model",
        f"{model.name}, a {kind.model_type} model; its chat template makes "
        f"{tokens} tokens of a hello",
    )
    try:
        tokenizer.check_instruction("Answer briefly.")
    except InvalidRequest:
        yield warning(
            "model",
            "its chat template refuses system messages, so requests with one get status 400",
            "send instructions in the user's message, or set LMAAS_MODEL to another model",
        )


def _absent(model: str) -> Finding:
    if model.count("/") != 1:
        return failure("model", f"there is no folder {model}", REMEDY)
    return warning(
        "model",
        f"{model} is no folder here, and not in the hub's cache: `lmaas serve` downloads it",
        "start `lmaas serve` where the Hugging Face hub is reached, or set LMAAS_MODEL to a folder",
    )
