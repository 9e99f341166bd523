"""Finds stop strings in an answer's growing text: they end it and are not shown."""

from bisect import bisect_left
from collections.abc import Sequence

from gateway.generation.text.incremental_decoder import AnswerDecoder


class StopStringScanner:
    """Scans an answer's text for stop strings; `starts` holds each token's character offset."""

    def __init__(self, decoder: AnswerDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=1)
        self.starts: list[int] = []
        self._text = ""
        self._cut: int | None = None

    def feed(self, token: int) -> bool:
        """Decode one token; True if a stop string is complete."""
        self.starts.append(len(self._text))
        begin = max(0, len(self._text) - self._longest + 1)
        self._text += self._decoder.feed([token])
        found = [self._text.find(stop, begin) for stop in self._stops]
        self._cut = min((place for place in found if place >= 0), default=None)
        return self._cut is not None

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._cut is not None

    def visible(self, *, ended: bool) -> str:
        """The text to show: without a stop string and, before the end, without a partial one."""
        if self._cut is not None:
            return self._text[: self._cut]
        if ended:
            return self._text + self._decoder.finish()
        return self._text[: len(self._text) - self._held_back()]

    def within(self, characters: int) -> int:
        """Number of tokens within the first `characters` characters of the text."""
        count = bisect_left(self.starts, characters)
        end = self.starts[count] if count < len(self.starts) else len(self._text)
        return count - 1 if count and end > characters else count

    def _held_back(self) -> int:
        """Length of the longest suffix of the text that is a prefix of a stop string."""
        most = min(self._longest - 1, len(self._text))
        return next(
            (
                size
                for size in range(most, 0, -1)
                if any(stop.startswith(self._text[-size:]) for stop in self._stops)
            ),
            0,
        )
