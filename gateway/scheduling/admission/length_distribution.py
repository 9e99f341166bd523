"""The distribution of the remaining length of sequences, given the tokens generated so far.

The cumulative hazard of a length N, -ln P(N ≥ x), is piecewise linear in ln x through the predicted
quantiles: each piece is a Pareto law. Above the 0.95 quantile it continues at the rate between the
last two (lengths are heavy-tailed: TIE, arXiv 2604.00499); P(N > max_tokens) = 0. Conditioning on
`generated` tokens subtracts the hazard up to there.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import exp, log
from typing import Final, NamedTuple

import numpy as np

from gateway.quantiles import LEVELS, MEDIAN, P90, Floats
from gateway.scheduling.requests import Quantiles, RunningSequence

LEVEL_HAZARDS: Final = -np.log1p(-np.array(LEVELS))  # cumulative, at each quantile
MIN_PIECE_WIDTH: Final = 1e-9  # of a piece in ln x, where quantiles are equal
LEVEL_HAZARD_LIST: Final[list[float]] = LEVEL_HAZARDS.tolist()
LN2: Final = log(2.0)
MIN_TAIL_HALVING: Final = log(1.05)  # of ln x: the tail halves over 5 % of the length or more
MAX_LOG_LENGTH: Final = 32.0  # ln of a length beyond any max_tokens


class LengthDistributions:
    """Distributions of n sequences' lengths: quantiles (n, 6), max_tokens and generated (n,)."""

    def __init__(self, quantiles: Floats, max_tokens: Floats, generated: Floats) -> None:
        self.max_tokens = max_tokens
        self.generated = generated
        within = np.clip(quantiles, 1.0, max_tokens[:, None])
        self._knots, self._hazards = _pieces(np.log(np.maximum.accumulate(within, axis=1)))
        self._spent = self._hazard(generated[:, None] + 1.0)  # (n, 1)

    @classmethod
    def of(cls, running: Sequence[RunningSequence]) -> "LengthDistributions":
        """The distributions of these sequences, in order."""
        quantiles = np.array([sequence.quantiles for sequence in running], dtype=np.float64)
        limits = [(sequence.max_tokens, sequence.generated) for sequence in running]
        columns = np.array(limits, dtype=np.float64).reshape(-1, 2)
        return cls(quantiles.reshape(-1, 6), columns[:, 0], columns[:, 1])

    def survival(self, horizons: Floats) -> Floats:
        """P(still running h steps from now) for whole steps h ≥ 0, (H,): returns (n, H).

        A sequence runs through the step of its last token: 1 at h ≤ 1, 0 beyond max_tokens.
        """
        lengths = self.generated[:, None] + horizons  # (n, H)
        survival = np.exp(np.minimum(self._spent - self._hazard(lengths), 0.0))
        survival[lengths > self.max_tokens[:, None]] = 0.0
        survival[:, horizons == 0] = 1.0
        return survival

    def remaining_quantile(self, level: float) -> Floats:
        """The quantile of the remaining tokens at this level: (n,), at least 1."""
        hazard = self._spent - np.log1p(-level)  # (n, 1)
        length = np.exp(_interpolated(hazard, self._hazards, self._knots)[:, 0])
        remaining: Floats = np.maximum(np.minimum(length, self.max_tokens) - self.generated, 1.0)
        return remaining

    def _hazard(self, lengths: Floats) -> Floats:
        """-ln P(N ≥ x) of each row at its lengths (n, H)."""
        logs = np.log(np.maximum(lengths, 1.0))
        return _interpolated(np.maximum(logs, self._knots[:, :1]), self._knots, self._hazards)


def _pieces(ends: Floats) -> tuple[Floats, Floats]:
    """Knots in ln x and the cumulative hazard at each, both (n, 8), from ln quantiles (n, 6)."""
    knots = np.empty((len(ends), 8))
    knots[:, 0] = np.maximum(2 * ends[:, 0] - ends[:, MEDIAN], 0.0)  # mirrors the median at τ = 0.1
    for index in range(6):
        knots[:, index + 1] = np.maximum(ends[:, index], knots[:, index] + MIN_PIECE_WIDTH)
    knots[:, 7] = MAX_LOG_LENGTH
    tail = np.log(2.0) / np.maximum(ends[:, -1] - ends[:, P90], MIN_TAIL_HALVING)
    hazards = np.zeros((len(ends), 8))
    hazards[:, 1:7] = LEVEL_HAZARDS
    hazards[:, 7] = LEVEL_HAZARDS[-1] + tail * (MAX_LOG_LENGTH - knots[:, 6])
    return knots, hazards


class SurvivalFunction(NamedTuple):
    """P(N ≥ x) of one fresh request by its cumulative hazard, piecewise linear through 8 knots."""

    knots: list[float]
    hazards: list[float]

    def at(self, step: float) -> float:
        """P(still running `step` steps after the start), ignoring max_tokens."""
        x = log(step) if step > 1 else 0.0
        end = bisect_right(self.knots, x)
        if end == 0 or x >= MAX_LOG_LENGTH:
            return 0.0 if end else 1.0
        low, start = self.knots[end - 1], self.hazards[end - 1]
        share = (x - low) / (self.knots[end] - low)
        return exp(-start - share * (self.hazards[end] - start))


@lru_cache(maxsize=8192)
def survival_function(quantiles: Quantiles, max_tokens: int) -> SurvivalFunction:
    """The survival function of a request that starts now."""
    ends, highest = [], 1.0
    for quantile in quantiles:
        highest = max(highest, min(quantile, max_tokens))
        ends.append(log(highest))
    knots = [max(2 * ends[0] - ends[MEDIAN], 0.0)]
    for end in ends:
        knots.append(max(end, knots[-1] + MIN_PIECE_WIDTH))
    tail = LN2 / max(ends[-1] - ends[P90], MIN_TAIL_HALVING)
    hazards = [0.0, *LEVEL_HAZARD_LIST, LEVEL_HAZARD_LIST[-1] + tail * (MAX_LOG_LENGTH - knots[-1])]
    return SurvivalFunction([*knots, MAX_LOG_LENGTH], hazards)


def _interpolated(x: Floats, knots: Floats, values: Floats) -> Floats:
    """Interpolates each row of `x` (n, H) in its row of `knots` and `values` (n, 8) in one pass.

    All rows are concatenated, shifted apart; no x lies before its row's first knot.
    """
    if not x.size:
        return np.zeros(x.shape)
    shift = 2 * knots[:, -1].max() * np.arange(len(x))[:, None]
    joined: Floats = np.interp((x + shift).ravel(), (knots + shift).ravel(), values.ravel())
    return joined.reshape(x.shape)
