"""How much longer sequences will run, given how much they have generated.

A length N has the cumulative hazard -ln P(N ≥ x), taken as piecewise linear in ln x through the
predicted quantiles: each piece is a Pareto law. Above the 0.95 quantile it goes on at the rate
between the last two (heavy-tailed, as lengths are: TIE, arXiv 2604.00499) until max_tokens, where
what is left stops. Given `generated` tokens, hazards up to there are spent: they subtract.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import exp, log
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.scheduling.requests import Quantiles, RunningSequence

Floats: TypeAlias = npt.NDArray[np.float64]

LEVELS: Final = np.array([0.1, 0.25, 0.5, 0.75, 0.9, 0.95])  # τ
HAZARD: Final = -np.log1p(-LEVELS)  # spent at each quantile
JUMP: Final = 1e-9  # least width in ln x of a piece, where quantiles are equal
SPENT: Final[list[float]] = HAZARD.tolist()
LN2: Final = log(2.0)
LEAST_TAIL: Final = log(1.05)  # the tail halves over 5 % of length or more
FAR: Final = 32.0  # ln of more tokens than anyone asks for


class LengthDistributions:
    """Generation lengths of n sequences as distributions: quantiles (n, 6), the rest (n,)."""

    def __init__(self, quantiles: Floats, max_tokens: Floats, generated: Floats) -> None:
        self.max_tokens = max_tokens
        self.generated = generated
        within = np.clip(quantiles, 1.0, max_tokens[:, None])
        self._knots, self._hazards = _pieces(np.log(np.maximum.accumulate(within, axis=1)))
        self._spent = self._hazard(generated[:, None] + 1.0)  # (n, 1); a running one adds a token

    @classmethod
    def of(cls, running: Sequence[RunningSequence]) -> "LengthDistributions":
        """The lengths of these sequences, in their order."""
        quantiles = np.array([sequence.quantiles for sequence in running], dtype=np.float64)
        limits = [(sequence.max_tokens, sequence.generated) for sequence in running]
        columns = np.array(limits, dtype=np.float64).reshape(-1, 2)
        return cls(quantiles.reshape(-1, 6), columns[:, 0], columns[:, 1])

    def alive(self, horizons: Floats) -> Floats:
        """P(still running h steps from now), h ≥ 0 in whole steps (H,): gives (n, H).

        A sequence runs through the step of its last token: 1 at h ≤ 1, 0 beyond max_tokens.
        """
        lengths = self.generated[:, None] + horizons  # (n, H)
        alive = np.exp(np.minimum(self._spent - self._hazard(lengths), 0.0))
        alive[lengths > self.max_tokens[:, None]] = 0.0
        alive[:, horizons == 0] = 1.0
        return alive

    def remaining_quantile(self, level: float) -> Floats:
        """Tokens still to come, exceeded with probability 1 - level: (n,), at least 1."""
        hazard = self._spent - np.log1p(-level)  # (n, 1)
        length = np.exp(_interpolated(hazard, self._hazards, self._knots)[:, 0])
        remaining: Floats = np.maximum(np.minimum(length, self.max_tokens) - self.generated, 1.0)
        return remaining

    def _hazard(self, lengths: Floats) -> Floats:
        """-ln P(N ≥ x) of each row at its lengths (n, H)."""
        logs = np.log(np.maximum(lengths, 1.0))
        return _interpolated(np.maximum(logs, self._knots[:, :1]), self._knots, self._hazards)


def _pieces(ends: Floats) -> tuple[Floats, Floats]:
    """Knots in ln x and the hazard spent at each, (n, 8) both rising, from ln quantiles (n, 6)."""
    knots = np.empty((len(ends), 8))
    knots[:, 0] = np.maximum(2 * ends[:, 0] - ends[:, 2], 0.0)  # as far below τ=.1 as .5 above
    for place in range(6):
        knots[:, place + 1] = np.maximum(ends[:, place], knots[:, place] + JUMP)
    knots[:, 7] = FAR
    tail = np.log(2.0) / np.maximum(ends[:, 5] - ends[:, 4], LEAST_TAIL)
    hazards = np.zeros((len(ends), 8))
    hazards[:, 1:7] = HAZARD
    hazards[:, 7] = HAZARD[-1] + tail * (FAR - knots[:, 6])
    return knots, hazards


class Survival(NamedTuple):
    """The hazard of a length yet to begin, piecewise linear in ln x through 8 knots."""

    knots: list[float]
    hazards: list[float]

    def alive(self, step: float) -> float:
        """P(still running `step` steps after the start), max_tokens aside."""
        x = log(step) if step > 1 else 0.0
        end = bisect_right(self.knots, x)
        if end == 0 or x >= FAR:
            return 0.0 if end else 1.0
        low, start = self.knots[end - 1], self.hazards[end - 1]
        share = (x - low) / (self.knots[end] - low)
        return exp(-start - share * (self.hazards[end] - start))


@lru_cache(maxsize=8192)
def survival(quantiles: Quantiles, max_tokens: int) -> Survival:
    """The survival of a request that starts now."""
    ends, highest = [], 1.0
    for quantile in quantiles:
        highest = max(highest, min(quantile, max_tokens))
        ends.append(log(highest))
    knots = [max(2 * ends[0] - ends[2], 0.0)]
    for end in ends:
        knots.append(max(end, knots[-1] + JUMP))
    tail = LN2 / max(ends[5] - ends[4], LEAST_TAIL)
    hazards = [0.0, *SPENT, SPENT[-1] + tail * (FAR - knots[-1])]
    return Survival([*knots, FAR], hazards)


def _interpolated(x: Floats, knots: Floats, values: Floats) -> Floats:
    """Each row of `x` (n, H) on its own line through (knots, values), (n, 8) each, one pass.

    The rows are laid end to end, far enough apart; no x lies before its row's first knot.
    """
    if not x.size:
        return np.zeros(x.shape)
    apart = 2 * knots[:, -1].max() * np.arange(len(x))[:, None]
    line: Floats = np.interp((x + apart).ravel(), (knots + apart).ravel(), values.ravel())
    return line.reshape(x.shape)
