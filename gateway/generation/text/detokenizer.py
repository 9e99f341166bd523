"""An answer's growing text, decoded for its reader."""

from collections.abc import Sequence

from gateway.generation.text.incremental_decoder import AnswerDecoder
from gateway.generation.text.stop_strings import StopStringScanner


class AnswerText:
    """Decodes when read, so an engine step costs no decoding.

    With stop strings, or if each token's offset is wanted (`placed`), it decodes as tokens arrive.
    """

    def __init__(
        self,
        decoder: AnswerDecoder,
        stops: Sequence[str],
        *,
        placed: bool = False,
        min_tokens: int = 0,
        stop_shown: bool = False,
    ) -> None:
        self._decoder = decoder
        self._scanner = (
            StopStringScanner(decoder, stops, min_tokens=min_tokens, shown=stop_shown)
            if stops or placed
            else None
        )
        self._unread: list[int] = []
        self._shown = 0

    def grow(self, tokens: Sequence[int]) -> tuple[int, bool]:
        """Append tokens up to a stop string: the number taken, and whether there was one."""
        if self._scanner is None:
            self._unread.extend(tokens)
            return len(tokens), False
        for taken, token in enumerate(tokens, 1):
            if self._scanner.feed(token):
                return taken, True
        return len(tokens), False

    def read(self, *, ended: bool, most: int | None = None) -> str:
        """The text since the last call; with `ended` all that is left.

        With `most`, the text of at most that many tokens: `unread` is the number of the others.
        """
        if self._scanner is not None:
            visible = self._scanner.visible(ended=ended)
            fresh, self._shown = visible[self._shown :], len(visible)
            return fresh
        count = len(self._unread) if most is None else most
        tokens, self._unread = self._unread[:count], self._unread[count:]
        finished = ended and not self._unread
        return self._decoder.feed(tokens) + (self._decoder.finish() if finished else "")

    @property
    def stop_string(self) -> str | None:
        """The stop string that is complete, if one is."""
        return self._scanner.found if self._scanner is not None else None

    @property
    def unread(self) -> int:
        """Number of tokens that were not decoded because of `most`."""
        return len(self._unread)

    @property
    def shown(self) -> int:
        """Characters read so far, with stop strings or offsets."""
        return self._shown

    def starts(self, first: int, *, ended: bool) -> list[int]:
        """Character offsets of the tokens from index `first` on whose text was read.

        Tokens without text follow with the next text; tokens of a stop string are left out.
        """
        if self._scanner is None:
            return []
        whole = ended and not self._scanner.stopped
        return self._scanner.starts[first : None if whole else self._scanner.within(self._shown)]
