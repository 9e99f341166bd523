"""Finds stop strings in an answer's growing text: they end it and are not shown."""

from bisect import bisect_left
from collections.abc import Sequence

from gateway.generation.text.incremental_decoder import AnswerDecoder


class StopStringScanner:
    """Scans an answer's text for stop strings; `starts` holds each token's character offset.

    A string that ends within the first `min_tokens` tokens does not count. The text ends before a
    stop string, or with it if it is `shown`.
    """

    def __init__(
        self,
        decoder: AnswerDecoder,
        stops: Sequence[str],
        *,
        min_tokens: int = 0,
        shown: bool = False,
    ) -> None:
        self._decoder = decoder
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=1)
        self._min_tokens = min_tokens
        self._shown = shown
        self.starts: list[int] = []
        self._text = ""
        self._cut: int | None = None
        self.found: str | None = None  # the stop string that is complete

    def feed(self, token: int) -> bool:
        """Decode one token; True if a stop string is complete."""
        before = len(self._text)
        self.starts.append(before)
        self._text += self._decoder.feed([token])
        if len(self.starts) < self._min_tokens:
            return False
        found = [
            (place, stop)
            for stop in self._stops
            if (place := self._text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if not found:
            return False
        place, self.found = min(found, key=lambda each: each[0])
        self._cut = place + len(self.found) if self._shown else place
        return True

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
