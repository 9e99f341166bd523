"""The lengths of recent answers: the fallback distribution while predictions are not trusted."""

from typing import Final

import numpy as np

from gateway.quantiles import LEVELS
from gateway.scheduling.requests import Quantiles

MAX_ANSWERS: Final = 500  # size of the window
MIN_ANSWERS: Final = 50  # for a first estimate
ANSWERS_PER_UPDATE: Final = 25


class OutputLengths:
    """A window of the newest answers' lengths, in tokens, and its quantiles."""

    def __init__(self) -> None:
        self._lengths = np.zeros(MAX_ANSWERS)
        self._seen = 0
        self._quantiles: Quantiles | None = None

    @property
    def quantiles(self) -> Quantiles | None:
        """The quantiles at `LEVELS`; None before `MIN_ANSWERS` answers."""
        return self._quantiles

    def add(self, tokens: int) -> bool:
        """Add an answer's length, replacing the oldest; returns whether the quantiles changed."""
        self._lengths[self._seen % MAX_ANSWERS] = tokens
        self._seen += 1
        if self._seen < MIN_ANSWERS or self._seen % ANSWERS_PER_UPDATE:
            return False
        known = self._lengths[: min(self._seen, MAX_ANSWERS)]
        low, lower, middle, upper, high, highest = np.quantile(known, LEVELS).tolist()
        self._quantiles = (low, lower, middle, upper, high, highest)
        return True
