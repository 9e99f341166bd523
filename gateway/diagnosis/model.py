"""Checks the model's folder: files, tokenizer and chat template."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from msgspec import Struct

from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.errors import InvalidRequest, LmaasError
from gateway.generation.text.tokenizer import MODEL_FILES, ChatTokenizer
from gateway.settings import Settings

REMEDY: Final = "set LMAAS_MODEL to a complete model folder, or unset it for the shipped one"
HELLO: Final = [{"role": "user", "content": "hello"}]


class _Configuration(Struct):
    model_type: str


def local_folder(settings: Settings) -> Path | None:
    """The model's folder on this machine; nothing is downloaded. None if there is none."""
    folder = Path(settings.model)
    if folder.is_dir():
        return folder
    try:
        return Path(
            snapshot_download(
                settings.model, allow_patterns=list(MODEL_FILES), local_files_only=True
            )
        )
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def check_model(settings: Settings) -> Iterator[Finding]:
    """Whether the folder is complete, and the chat template renders a conversation."""
    folder = local_folder(settings)
    if folder is None:
        yield _absent(settings.model)
        return
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
    if folder == Path(settings.model) and not any(folder.glob("*.safetensors")):
        yield failure("model", f"{folder} has no *.safetensors", REMEDY)
        return
    yield ok(
        "model",
        f"{settings.model_name}, a {kind.model_type} model; its chat template makes "
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
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        return failure("model", f"there is no folder {model}", REMEDY)
    return warning(
        "model",
        f"{model} is no folder here, and not in the hub's cache: `lmaas serve` downloads it",
        "start `lmaas serve` where the Hugging Face hub is reached, or set LMAAS_MODEL to a folder",
    )
