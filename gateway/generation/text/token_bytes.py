"""Text and bytes of single tokens, as the tokenizer's decoder writes them."""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from tokenizers import Tokenizer

BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
WRITTEN_OUT: Final = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}


class TokenText(Struct, frozen=True, gc=False):
    """A token's bytes, and their text with U+FFFD for incomplete characters.

    A control token has no bytes.
    """

    text: str
    bytes: bytes | None


class Speller:
    """Decodes single tokens, so that the bytes of an answer's tokens join to those of its text.

    Some decoders strip the space at the start of a text, so an answer's first token is decoded
    differently.
    """

    def __init__(self, tokenizer: Tokenizer, decoder: Mapping[str, Any]) -> None:
        steps = [dict(step) for step in decoder.get("decoders", [decoder] if decoder else [])]
        kinds = {step["type"] for step in steps}
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        self._written_out = kinds <= WRITTEN_OUT
        self._levels = _levels() if "ByteLevel" in kinds else None
        self._fallback = "ByteFallback" in kinds
        self._replaced = [pair for step in steps if (pair := _replacement(step)) is not None]
        self._strips = any(map(_strips_first, steps))
        self._known: dict[tuple[int, bool], TokenText] = {}

    def spell(self, token: int, *, first: bool = False) -> TokenText:
        """Text and bytes of a token within an answer, or of its `first`."""
        key = token, first and self._strips
        spelled = self._known.get(key)
        if spelled is None:
            spelled = self._known[key] = self._spell(*key)
        return spelled

    def _spell(self, token: int, stripped: bool) -> TokenText:
        added = self._added.get(token)
        if added is not None and added.special:
            return TokenText(added.content, None)
        written = added.content.encode() if added is not None else self._bytes(token)
        if stripped:
            written = written.removeprefix(b" ")
        return TokenText(written.decode(errors="replace"), written)

    def _bytes(self, token: int) -> bytes:
        piece = self._tokenizer.id_to_token(token)
        if piece is None:  # the model has more ids than its tokenizer
            return b""
        if not self._written_out:
            return self._tokenizer.decode([token], skip_special_tokens=False).encode()
        if self._levels is not None and all(letter in self._levels for letter in piece):
            return bytes(self._levels[letter] for letter in piece)
        if self._fallback and (byte := BYTE.fullmatch(piece)):
            return bytes.fromhex(byte[1])
        for pattern, content in self._replaced:
            piece = piece.replace(pattern, content)
        return piece.encode()


def _levels() -> dict[str, int]:
    """Byte of each letter of a byte-level vocabulary (GPT-2's mapping of bytes to characters)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    letters = [*map(chr, plain), *(chr(0x100 + place) for place in range(len(others)))]
    return dict(zip(letters, [*plain, *others], strict=True))


def _replacement(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """The replacement (pattern, content) that a decoder step makes, if any."""
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if step["type"] == "Replace" and "String" in step["pattern"]:
        return step["pattern"]["String"], step["content"]
    return None


def _strips_first(step: Mapping[str, Any]) -> bool:
    """Whether a decoder step strips the space at the start of a text."""
    if step["type"] == "Metaspace":
        older = "always" if step.get("add_prefix_space", True) else "never"
        return bool(step.get("prepend_scheme", older) != "never")
    return bool(step["type"] == "Strip" and step["content"] == " " and step["start"])
