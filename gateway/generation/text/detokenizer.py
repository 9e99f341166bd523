"""An answer's text as it grows, read at the reader's own pace."""

from collections.abc import Sequence

from gateway.generation.text.incremental_decoder import AnswerDecoder
from gateway.generation.text.stop_strings import StoppedText


class AnswerText:
    """Decodes when somebody reads, so a step costs nothing; with stop strings as tokens come.

    So it does where the place of each token is wanted (`placed`).
    """

    def __init__(
        self, decoder: AnswerDecoder, stops: Sequence[str], *, placed: bool = False
    ) -> None:
        self._decoder = decoder
        self._watched = StoppedText(decoder, stops) if stops or placed else None
        self._unread: list[int] = []
        self._shown = 0

    def grow(self, tokens: Sequence[int]) -> tuple[int, bool]:
        """Take tokens up to a stop string: how many, and whether there was one."""
        if self._watched is None:
            self._unread.extend(tokens)
            return len(tokens), False
        for taken, token in enumerate(tokens, 1):
            if self._watched.feed(token):
                return taken, True
        return len(tokens), False

    def read(self, *, ended: bool) -> str:
        """The text that came since the last call; all of it once `ended`."""
        if self._watched is not None:
            visible = self._watched.visible(ended=ended)
            fresh, self._shown = visible[self._shown :], len(visible)
            return fresh
        tokens, self._unread = self._unread, []
        return self._decoder.feed(tokens) + (self._decoder.finish() if ended else "")

    def starts(self, first: int, *, ended: bool) -> list[int]:
        """Where the tokens from the `first` on begin, in characters of the text.

        Those whose text was read; ones without text wait for what comes after them, and none
        shows anything of a stop string.
        """
        if self._watched is None:
            return []
        whole = ended and not self._watched.stopped
        return self._watched.starts[first : None if whole else self._watched.within(self._shown)]
