"""Tokens to text as an answer grows, never splitting a character."""

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
MOST_HELD: Final = 64  # tokens; then what ends in no character will never be one


class AnswerDecoder:
    """Turns an answer's tokens into text as they come, never splitting a character.

    Each piece is what the tokens add to the text of the few before them, since a token's text may
    depend on its neighbour's. Bytes that can no longer become a character are given as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._given: list[int] = []  # the tokens of the piece before
        self._held: list[int] = []  # tokens not yet given

    def feed(self, ids: Sequence[int]) -> str:
        """The text these tokens complete; empty while a character is unfinished."""
        return "".join(map(self._take, ids))

    def _take(self, token: int) -> str:
        self._held.append(token)
        piece = self._piece()
        unfinished = piece.endswith(UNFINISHED) and len(self._held) < MOST_HELD
        return self._give(piece) if piece and not unfinished else ""

    def finish(self) -> str:
        """What an answer that ended inside a character still has to give."""
        return self._give(self._piece())

    def _piece(self) -> str:
        before = self._tokenizer.decode(self._given, skip_special_tokens=True)
        whole = self._tokenizer.decode(self._given + self._held, skip_special_tokens=True)
        return whole[len(before) :]

    def _give(self, piece: str) -> str:
        self._given, self._held = self._held, []
        return piece
