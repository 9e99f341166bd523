"""Decodes an answer's tokens incrementally, never splitting a character."""

from collections.abc import Mapping, Sequence
from typing import Final

from tokenizers import Tokenizer

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
NONE_SHOWN: Final[Mapping[int, str]] = {}
MAX_HELD_TOKENS: Final = 64  # without a complete character; then they are decoded as they are


class AnswerDecoder:
    """Decodes an answer's tokens incrementally, never splitting a character.

    A piece is the text that its tokens add to that of the piece before, since a token's text may
    depend on its neighbours. Bytes that cannot become a character are decoded to U+FFFD.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int] = (),
        shown: Mapping[int, str] = NONE_SHOWN,
    ) -> None:
        """`context`: the tokens that the answer continues; some decoders strip a first space.

        `shown`: control tokens whose text is kept. Others are left out.
        """
        self._tokenizer = tokenizer
        self._shown = shown
        self._given = list(context)  # tokens of the previous piece
        self._held: list[int] = []  # tokens whose text is not complete

    @property
    def continues(self) -> bool:
        """Whether there is text before the next piece."""
        return bool(self._tokenizer.decode(self._given, skip_special_tokens=True))

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete; empty while a character is incomplete."""
        return "".join(map(self._take, ids))

    def _take(self, token: int) -> str:
        if token in self._shown:
            before = self.finish()
            self._given = [token]
            return before + self._shown[token]
        self._held.append(token)
        piece = self._piece()
        if not piece and len(self._held) >= MAX_HELD_TOKENS:
            self._held.clear()  # tokens without a text: each would make the next ones dearer
        unfinished = piece.endswith(UNFINISHED) and len(self._held) < MAX_HELD_TOKENS
        return self._give(piece) if piece and not unfinished else ""

    def finish(self) -> str:
        """The rest of an answer that ended inside a character."""
        return self._give(self._piece())

    def _piece(self) -> str:
        before = self._tokenizer.decode(self._given, skip_special_tokens=True)
        whole = self._tokenizer.decode(self._given + self._held, skip_special_tokens=True)
        return whole[len(before) :]

    def _give(self, piece: str) -> str:
        self._given, self._held = self._held, []
        return piece
