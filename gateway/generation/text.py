"""An answer's text as it grows, read at the reader's own pace."""

from collections.abc import Sequence

from gateway.generation.stops import StoppedText
from gateway.generation.tokens import AnswerDecoder


class AnswerText:
    """Decodes when somebody reads, so a step costs nothing; with stop strings as tokens come."""

    def __init__(self, decoder: AnswerDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stopped = StoppedText(decoder, stops) if stops else None
        self._unread: list[int] = []
        self._shown = 0

    def grow(self, tokens: Sequence[int]) -> tuple[int, bool]:
        """Take tokens up to a stop string: how many, and whether there was one."""
        if self._stopped is None:
            self._unread.extend(tokens)
            return len(tokens), False
        for taken, token in enumerate(tokens, 1):
            if self._stopped.feed(token):
                return taken, True
        return len(tokens), False

    def read(self, *, ended: bool) -> str:
        """The text that came since the last call; all of it once `ended`."""
        if self._stopped is not None:
            visible = self._stopped.visible(ended=ended)
            fresh, self._shown = visible[self._shown :], len(visible)
            return fresh
        tokens, self._unread = self._unread, []
        return self._decoder.feed(tokens) + (self._decoder.finish() if ended else "")
