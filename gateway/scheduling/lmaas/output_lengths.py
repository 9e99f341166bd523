"""How long answers are, whoever asks: what is known of a length when predictions do not hold."""

from typing import Final

import numpy as np

from gateway.scheduling.admission.length_distribution import LEVELS
from gateway.scheduling.requests import Quantiles

WINDOW: Final = 500  # answers
LEAST: Final = 50  # before which nothing is known
EVERY: Final = 25  # answers between two looks


class OutputLengths:
    """The quantiles of the newest answers' lengths, in tokens."""

    def __init__(self) -> None:
        self._lengths = np.zeros(WINDOW)
        self._seen = 0
        self._quantiles: Quantiles | None = None

    @property
    def quantiles(self) -> Quantiles | None:
        """At the levels of a prediction; None while too few answers are known."""
        return self._quantiles

    def add(self, tokens: int) -> bool:
        """Take in an answer, and forget the oldest; whether the quantiles are new."""
        self._lengths[self._seen % WINDOW] = tokens
        self._seen += 1
        if self._seen < LEAST or self._seen % EVERY:
            return False
        known = self._lengths[: min(self._seen, WINDOW)]
        low, lower, middle, upper, high, highest = np.quantile(known, LEVELS).tolist()
        self._quantiles = (low, lower, middle, upper, high, highest)
        return True
