"""Predictions of known lengths with an error of a stated size."""

from collections.abc import Sequence
from math import exp
from random import Random
from typing import Final

SEED: Final = 11
MAX_LOG_SD: Final = 3.0  # standard deviation of a log error


def relative_error(predicted: Sequence[int], true: Sequence[int]) -> float:
    """Mean absolute error over the mean of the true lengths."""
    wrong = sum(abs(guess - length) for guess, length in zip(predicted, true, strict=True))
    return wrong / sum(true)


def predicted(true: Sequence[int], maximum: int, error: float) -> list[int]:
    """Each length times a log-normal error, in 1 … most; together `error` of their mean apart.

    Half of them are too short. The same lengths always get the same predictions.
    """
    rng = Random(SEED)
    draws = [rng.gauss(0.0, 1.0) for _ in true]
    low, high = 0.0, MAX_LOG_SD
    for _ in range(50):
        spread = (low + high) / 2
        if relative_error(_with_error(true, maximum, draws, spread), true) < error:
            low = spread
        else:
            high = spread
    return _with_error(true, maximum, draws, high)


def _with_error(
    true: Sequence[int], maximum: int, draws: Sequence[float], spread: float
) -> list[int]:
    return [
        min(max(round(length * exp(spread * draw)), 1), maximum)
        for length, draw in zip(true, draws, strict=True)
    ]
