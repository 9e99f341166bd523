"""What the gateway knows of the model from its folder, which needs no weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from gateway.errors import StartupFailure


class TokenCodec(Protocol):
    """Encodes and decodes text for servers that take or return no token ids."""

    def prompt_text(self, ids: Sequence[int]) -> str:
        """The text of a prompt with its control tokens, as a server is to encode it."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens within a text."""

    def spelled(self, ids: Sequence[int]) -> bytes:
        """The bytes that these tokens of an answer stand for; control tokens have none."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a part of an answer: its bytes, if perhaps not as the model generated them."""


class LocalModel(Struct, frozen=True):
    """A model's name here, its sizes and ends, and its tokenizer.

    `context_tokens` is None where its configuration does not say.
    """

    name: str
    vocabulary: int
    context_tokens: int | None
    stop_ids: list[int]
    codec: TokenCodec


class _Configuration(Struct):
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    eos_token_id: int | list[int] | None = None


def read_local_model(folder: Path, name: str, vocabulary: int, codec: TokenCodec) -> LocalModel:
    """The model of a folder; `vocabulary` is that of its tokenizer. StartupFailure."""
    files = [folder / each for each in ("generation_config.json", "config.json")]
    try:
        read = [
            msgspec.json.decode(file.read_bytes(), type=_Configuration)
            for file in files
            if file.exists()
        ]
    except msgspec.DecodeError as error:
        raise StartupFailure(f"LMAAS_MODEL: {folder}: {error}") from error
    ends = next((each.eos_token_id for each in read if each.eos_token_id is not None), None)
    return LocalModel(
        name,
        max([vocabulary, *(each.vocab_size or 0 for each in read)]),
        next((each.max_position_embeddings for each in read if each.max_position_embeddings), None),
        [] if ends is None else [ends] if isinstance(ends, int) else sorted(ends),
        codec,
    )
