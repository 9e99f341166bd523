"""Encodes and decodes text with the served model's tokenizer and chat template."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct
from tokenizers import Tokenizer

from gateway.errors import InvalidRequest, StartupFailure
from gateway.generation.text.incremental_decoder import AnswerDecoder
from gateway.generation.text.token_bytes import Speller

MODEL_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "config.json",
)
HEAD_BYTES: Final = 8 << 20  # of each weight file, in a model's fingerprint


def model_folder(model: str) -> Path:
    """The folder with the model's files; for a hub name, its tokenizer is downloaded first.

    StartupFailure if there is neither such a folder nor such a hub name.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(model, allow_patterns=list(MODEL_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StartupFailure(
            f"LMAAS_MODEL: no folder {model!r}, and the hub gave no such model ({reason})"
        ) from error


def model_fingerprint(folder: Path) -> str:
    """A hash of the model: configuration, tokenizer, chat template, and the head of the weights."""
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    for path in (*(folder / name for name in MODEL_FILES), *weights):
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(HEAD_BYTES))
    return digest.hexdigest()


class _TokenizerFile(Struct):
    """The part of a `tokenizer.json` that is read here."""

    decoder: dict[str, Any] | None = None


def _refuse(message: str) -> None:
    raise TemplateError(message)


class ChatTokenizer:
    """Encodes conversations and decodes answers. Safe to share between tasks."""

    def __init__(self, folder: Path) -> None:
        core = folder / "tokenizer.json"
        if not core.is_file():
            raise StartupFailure(f"LMAAS_MODEL: {folder} has no tokenizer.json")
        self._tokenizer = Tokenizer.from_file(str(core))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        settings = _json(folder / "tokenizer_config.json")
        separate = folder / "chat_template.jinja"
        source = separate.read_text() if separate.is_file() else settings.get("chat_template")
        if not isinstance(source, str):
            raise StartupFailure(f"LMAAS_MODEL: {folder} has no chat template")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string(source)
        self._names = {
            name: _token_text(settings.get(name))
            for name in ("bos_token", "eos_token", "pad_token")
        }
        self._plain = Tokenizer.from_file(str(core))
        self._plain.encode_special_tokens = True
        self._plain.no_padding()
        self._plain.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder().values()
        controls = [re.escape(token.content) for token in added if token.special]
        self._control = re.compile("|".join(controls) or r"(?!)")
        written = msgspec.json.decode(core.read_bytes(), type=_TokenizerFile)
        self.speller = Speller(self._tokenizer, written.decoder or {})
        self.longest_token: int = max(map(len, self._tokenizer.get_vocab()))
        self.fingerprint: str = hashlib.sha256(core.read_bytes() + source.encode()).hexdigest()

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        A control token written into a message is encoded as plain text. InvalidRequest if the
        model's template refuses the conversation.
        """
        forged = [m["content"] for m in messages if self._control.search(m["content"])]
        if not forged:
            return self.encode(self._render(messages))
        marks = {secrets.token_hex(16): content for content in forged}
        names = {content: mark for mark, content in marks.items()}
        marked = [{**m, "content": names.get(m["content"], m["content"])} for m in messages]
        parts = re.split(f"({'|'.join(marks)})", self._render(marked))
        return [
            token
            for part in parts
            for token in (
                self._plain.encode(marks[part], add_special_tokens=False).ids
                if part in marks
                else self.encode(part)
            )
        ]

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._names
            )
        except TemplateError as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a raw prompt, with the tokenizer's special tokens such as BOS."""
        return self._tokenizer.encode(text).ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decoder(self) -> AnswerDecoder:
        """A decoder for one answer."""
        return AnswerDecoder(self._tokenizer)


def _json(path: Path) -> dict[str, Any]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.is_file() else {}


def _token_text(entry: object) -> str:
    """A special token's text from its configuration: a string, or an object with `content`."""
    if isinstance(entry, dict):
        return str(entry.get("content", ""))
    return entry if isinstance(entry, str) else ""
