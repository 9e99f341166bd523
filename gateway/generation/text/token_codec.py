"""Text for servers that take or return no token ids."""

from collections.abc import Sequence
from typing import Final

from gateway.generation.text.tokenizer import ChatTokenizer

SEPARATOR: Final = "\n"


class TextCodec:
    """Encodes and decodes parts of texts so that the bytes of the tokens are those of the text."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.encode_prompt("")  # what a server adds to every text itself
        self._separator = self.spelled(tokenizer.encode(SEPARATOR)), tokenizer.encode(SEPARATOR)

    def prompt_text(self, ids: Sequence[int]) -> str:
        """The text of a prompt with its control tokens, without those that the tokenizer adds."""
        count = len(self._added)
        begins = bool(count) and list(ids[:count]) == self._added
        return self._tokenizer.decode_all(ids[count:] if begins else ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens within a text."""
        return self.spelled(ids).decode(errors="replace")

    def spelled(self, ids: Sequence[int]) -> bytes:
        """The bytes that these tokens of an answer stand for; control tokens have none."""
        spell = self._tokenizer.speller.spell
        return b"".join(spell(token).bytes or b"" for token in ids)

    def encode(self, text: str) -> list[int]:
        """Tokens of a part of an answer: its bytes, if perhaps not as the model generated them.

        Some tokenizers put a space before a text: there it is encoded after a line's end.
        """
        if not text:
            return []
        ids, wanted = self._tokenizer.encode(text), text.encode()
        if self.spelled(ids) == wanted:
            return ids
        before, separator = self._separator
        joined = self._tokenizer.encode(SEPARATOR + text)
        if joined[: len(separator)] == separator and self.spelled(joined) == before + wanted:
            return joined[len(separator) :]
        return ids
