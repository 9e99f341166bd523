"""Finds stop strings in an answer's growing text: they end it and are not shown."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

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
        self._min_tokens = min_tokens
        self._shown = shown
        self.starts: list[int] = []
        self._text = ""
        self._scanned = 0  # characters that `_matched` is of
        self._matched = [0] * len(self._stops)  # of each stop string, how much the text ends with
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
        """Length of the longest suffix of the text that is a proper prefix of a stop string.

        Each character is looked at once for each stop string (Knuth, Morris and Pratt, SIAM
        J. Comput. 6, 1977).
        """
        new, self._scanned = self._text[self._scanned :], len(self._text)
        for place, stop in enumerate(self._stops if new else ()):
            self._matched[place] = _matched_after(stop, self._matched[place], new)
        return max(self._matched, default=0)


def _matched_after(stop: str, matched: int, text: str) -> int:
    """How many first characters of a stop string, not all, a text ends with.

    `text` follows one that ended with `matched` of them.
    """
    shorter = _shorter_matches(stop)
    for character in text:
        while matched and stop[matched] != character:
            matched = shorter[matched - 1]
        matched += stop[matched] == character
        if matched == len(stop):
            matched = shorter[matched - 1]
    return matched


@lru_cache(maxsize=1024)
def _shorter_matches(stop: str) -> tuple[int, ...]:
    """For each prefix, the length of its longest proper suffix that is a prefix of it."""
    lengths = [0]
    for character in stop[1:]:
        matched = lengths[-1]
        while matched and stop[matched] != character:
            matched = lengths[matched - 1]
        lengths.append(matched + (stop[matched] == character))
    return tuple(lengths)
