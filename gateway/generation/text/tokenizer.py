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
from msgspec import Struct
from tokenizers import Tokenizer

from gateway.errors import (
    ContextLengthExceeded,
    InstructionRefused,
    InvalidRequest,
    StartupFailure,
)
from gateway.generation.text.chat_template import (
    MAX_CHARACTERS,
    RefusedByTemplate,
    TooLong,
    read_template,
)
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


class ChatTokenizer:
    """Encodes conversations and decodes answers. Safe to share between tasks."""

    def __init__(self, folder: Path) -> None:
        core = folder / "tokenizer.json"
        if not core.is_file():
            raise StartupFailure(f"LMAAS_MODEL: {folder} has no tokenizer.json")
        self._tokenizer = Tokenizer.from_file(str(core))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._template = read_template(folder, _json(folder / "tokenizer_config.json"))
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
        self.fingerprint: str = hashlib.sha256(
            core.read_bytes() + self._template.source.encode()
        ).hexdigest()

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        registered: bool = False,
        max_characters: int = MAX_CHARACTERS,
    ) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        `registered`: the first message is the app's registered instruction. A control token
        written into a message is encoded as plain text. InvalidRequest if the model's template
        refuses the messages, InstructionRefused if it refuses only the registered one,
        ContextLengthExceeded if the rendered text has more than `max_characters`.
        """
        try:
            parts = self._parts(messages, max_characters)
        except RefusedByTemplate as error:
            if registered and self._renders(messages[1:], max_characters):
                raise InstructionRefused(
                    "the instruction that is registered for this app is refused by the model's "
                    f"chat template: {error}; the messages are not the cause"
                ) from error
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        except TooLong as error:
            raise ContextLengthExceeded(
                f"the chat template makes more than {max_characters} characters of these messages, "
                "which exceeds the model's context",
                param="messages",
            ) from error
        return [
            token
            for text, plain in parts
            for token in (
                self._plain.encode(text, add_special_tokens=False).ids
                if plain
                else self.encode(text)
            )
        ]

    def check_instruction(self, instruction: str) -> None:
        """InvalidRequest if the model's template refuses this instruction of an app."""
        turns = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": "hello"},
        ]
        try:
            self._template.render(turns)
        except RefusedByTemplate as error:
            raise InvalidRequest(
                f"instruction: the model's chat template refuses it as a system message: {error}",
                param="instruction",
            ) from error
        except TooLong as error:
            raise InvalidRequest(
                f"instruction: the model's chat template makes more than {MAX_CHARACTERS} "
                "characters of it",
                param="instruction",
            ) from error

    def _parts(
        self, messages: Sequence[Mapping[str, str]], max_characters: int
    ) -> list[tuple[str, bool]]:
        """The rendered text in parts, and whether a part's control tokens are plain text."""
        forged = [m["content"] for m in messages if self._control.search(m["content"])]
        if not forged:
            return [(self._template.render(messages, max_characters), False)]
        marks = {secrets.token_hex(16): content for content in forged}
        names = {content: mark for mark, content in marks.items()}
        marked = [{**m, "content": names.get(m["content"], m["content"])} for m in messages]
        rendered = self._template.render(marked, max_characters)
        parts = [
            (marks.get(part, part), part in marks)
            for part in re.split(f"({'|'.join(marks)})", rendered)
        ]
        if sum(len(text) for text, _ in parts) > max_characters:
            raise TooLong
        return parts

    def _renders(self, messages: Sequence[Mapping[str, str]], max_characters: int) -> bool:
        try:
            self._template.render(messages, max_characters)
        except (RefusedByTemplate, TooLong):
            return False
        return True

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
