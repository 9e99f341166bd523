"""The distribution of the remaining length of sequences, given the tokens generated so far.

The cumulative hazard of a length N, -ln P(N ≥ x), is piecewise linear in ln x through the predicted
quantiles: each piece is a Pareto law. Above the 0.95 quantile it continues at the rate between the
last two (lengths are heavy-tailed: TIE, arXiv 2604.00499); P(N > max_tokens) = 0. Conditioning on
`generated` tokens subtracts the hazard up to there.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import exp, log
from typing import Final, NamedTuple, Self

import numpy as np

from gateway.quantiles import LEVELS, MEDIAN, P90, Floats
from gateway.scheduling.requests import Quantiles, RunningSequence

LEVEL_HAZARDS: Final = -np.log1p(-np.array(LEVELS))  # cumulative, at each quantile
MIN_PIECE_WIDTH: Final = 1e-9  # of a piece in ln x, where quantiles are equal
LEVEL_HAZARD_LIST: Final[list[float]] = LEVEL_HAZARDS.tolist()
NEXT_STEP: Final = np.array([1.0])
NO_PIECES: Final = np.zeros((0, 8))
LN2: Final = log(2.0)
MIN_TAIL_HALVING: Final = log(1.05)  # of ln x: the tail halves over 5 % of the length or more
MAX_LOG_LENGTH: Final = 32.0  # ln of a length beyond any max_tokens


class LengthDistributions:
    """Distributions of n sequences' lengths.

    `knots` and `hazards` (n, 8) are their pieces; `max_tokens` and `generated` are (n,).
    """

    def __init__(
        self, knots: Floats, hazards: Floats, max_tokens: Floats, generated: Floats
    ) -> None:
        self._knots = knots
        self._hazards = hazards
        self.max_tokens = max_tokens
        self.generated = generated

    @classmethod
    def of(cls, running: Sequence[RunningSequence]) -> Self:
        """The distributions of these sequences, in order."""
        known = [survival_function(each.quantiles, each.max_tokens).pieces for each in running]
        pieces = np.concatenate([NO_PIECES, *known]).reshape(-1, 2, 8)
        max_tokens = np.array([each.max_tokens for each in running], np.float64)
        generated = np.array([each.generated for each in running], np.float64)
        return cls(pieces[:, 0], pieces[:, 1], max_tokens, generated)

    @classmethod
    def of_quantiles(cls, quantiles: Floats, max_tokens: Floats, generated: Floats) -> Self:
        """The same of sequences by their quantiles, (n, 6)."""
        within = np.clip(quantiles, 1.0, max_tokens[:, None])
        pieces = _pieces(np.log(np.maximum.accumulate(within, axis=1)))
        return cls(*pieces, max_tokens, generated)

    def survival(self, horizons: Floats) -> Floats:
        """P(still running h steps from now) for whole steps h ≥ 0, rising, (H,): returns (n, H).

        A sequence runs through the step of its last token: 1 at h ≤ 1, 0 beyond max_tokens.
        """
        survival = np.zeros((len(self.generated), len(horizons)))
        count = self.intervals_of(horizons)
        lengths = self.generated[:, None] + np.concatenate((NEXT_STEP, horizons[:count]))
        hazards = self._hazard(lengths)  # (n, 1 + count)
        alive = np.exp(np.minimum(hazards[:, :1] - hazards[:, 1:], 0.0))
        survival[:, :count] = alive * (lengths[:, 1:] <= self.max_tokens[:, None])
        survival[:, : horizons.searchsorted(0.0, side="right")] = 1.0
        return survival

    def intervals_of(self, horizons: Floats) -> int:
        """How many of these rising horizons any sequence may reach."""
        longest = float((self.max_tokens - self.generated).max(initial=0.0))
        return int(horizons.searchsorted(longest, side="right"))

    def remaining_quantile(self, level: float) -> Floats:
        """The quantile of the remaining tokens at this level: (n,), at least 1."""
        hazard = self._spent - np.log1p(-level)  # (n, 1)
        length = np.exp(_interpolated(hazard, self._hazards, self._knots)[:, 0])
        remaining: Floats = np.maximum(np.minimum(length, self.max_tokens) - self.generated, 1.0)
        return remaining

    @cached_property
    def _spent(self) -> Floats:
        """The hazard up to the next token, (n, 1)."""
        return self._hazard(self.generated[:, None] + 1.0)

    def _hazard(self, lengths: Floats) -> Floats:
        """-ln P(N ≥ x) of each row at its lengths (n, H)."""
        logs = np.log(np.maximum(lengths, 1.0))
        np.maximum(logs, self._knots[:, :1], out=logs)
        return _interpolated(logs, self._knots, self._hazards)


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
    """P(N ≥ x) of one fresh request by its cumulative hazard, piecewise linear through 8 knots.

    `pieces` (2, 8) are both as an array.
    """

    knots: list[float]
    hazards: list[float]
    pieces: Floats

    def ahead(self, logs: Floats) -> Floats:
        """The same at many steps after the start, by their logarithms: at least 0."""
        survival: Floats = np.exp(-np.interp(logs, self.pieces[0], self.pieces[1]))
        return survival

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
    knots.append(MAX_LOG_LENGTH)
    return SurvivalFunction(knots, hazards, np.array((knots, hazards)))


def _interpolated(x: Floats, knots: Floats, values: Floats) -> Floats:
    """Interpolates each row of `x` (n, H) in its row of `knots` and `values` (n, 8) in one pass.

    All rows are concatenated, shifted apart; no x lies before its row's first knot.
    """
    if not x.size:
        return np.zeros(x.shape)
    shift = 2 * knots[:, -1].max() * np.arange(len(x))[:, None]
    joined: Floats = np.interp((x + shift).ravel(), (knots + shift).ravel(), values.ravel())
    return joined.reshape(x.shape)
