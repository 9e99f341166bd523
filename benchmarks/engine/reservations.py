"""Simulated predictions of known lengths, with a given error."""

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
    """Each length times a log-normal error, in 1 … `maximum`, with relative error `error` overall.

    Half of them are too short. Deterministic.
    """
    rng = Random(SEED)
    normals = [rng.gauss(0.0, 1.0) for _ in true]
    low, high = 0.0, MAX_LOG_SD
    for _ in range(50):
        spread = (low + high) / 2
        if relative_error(_with_error(true, maximum, normals, spread), true) < error:
            low = spread
        else:
            high = spread
    return _with_error(true, maximum, normals, high)


def _with_error(
    true: Sequence[int], maximum: int, normals: Sequence[float], spread: float
) -> list[int]:
    return [
        min(max(round(length * exp(spread * normal)), 1), maximum)
        for length, normal in zip(true, normals, strict=True)
    ]
