"""Random numbers as a pure function of seed and position."""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

Words: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint64]]
Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

_WORD: Final = 2**64 - 1


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> Floats:
    """A number in [0, 1) for each seed and position, uncorrelated with those of other pairs."""
    states = np.array([seed & _WORD for seed in seeds], dtype=np.uint64)
    words = _mix(_mix(states) + np.array(positions, dtype=np.uint64))
    return (words >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _mix(words: Words) -> Words:
    """The splitmix64 generator's output for each state (Steele et al., OOPSLA 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
