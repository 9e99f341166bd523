"""How well a second answer predicts the first, and hence how well anything can predict it.

Two answers to one request, sampled alike, are independent draws of one distribution: with the
variance s² of log(1 + tokens) given the request, their difference has the expectation zero and the
variance 2·s². So their log-RMSE d, over pairs, is √2 times the root mean square of s. The predictor
with the least log-RMSE returns the expected log length of each request and is left with exactly
that: the floor is d / √2. Lengths are those generated, within max_tokens, for both.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.own_lengths.lengths_file import OwnLength
from gateway.evaluation.scoring import POOLED
from gateway.prediction.training.scorecard import kendall_tau, rms
from gateway.quantiles import Floats

RESAMPLES: Final = 2_000
SEED: Final = 1


class NoiseFloor(Struct, frozen=True):
    """Of an app's pairs: `second` is the log-RMSE of a second answer, `floor` the least possible.

    `low` and `high` are the ends of the floor's 95 % interval; `tau` is Kendall's, of the answers.
    """

    pairs: int
    second: float
    floor: float
    low: float
    high: float
    tau: float


def answer_pairs(lengths: Iterable[OwnLength]) -> dict[str, Floats]:
    """Tokens of the answers that were sampled twice, (pairs, 2) for each app, by name."""
    by_key = {each.key: each for each in lengths}
    found: dict[str, list[tuple[int, int]]] = {}
    for (line, kind), again in by_key.items():
        first = by_key.get((line, "sampled"))
        if kind == "again" and first is not None:
            found.setdefault(again.app, []).append((first.answer_tokens, again.answer_tokens))
    return {app: np.array(found[app], np.float64) for app in sorted(found)}


def noise_floors(pairs: dict[str, Floats]) -> dict[str, NoiseFloor]:
    """The floor of each app, and last that of all pairs as POOLED; empty without pairs."""
    if not pairs:
        return {}
    return {name: _floor(own) for name, own in (pairs | {POOLED: all_pairs(pairs)}).items()}


def all_pairs(pairs: dict[str, Floats]) -> Floats:
    """The pairs of all apps, (n, 2)."""
    return np.concatenate(list(pairs.values()))


def floor_of(differences: Floats) -> float:
    """The least log-RMSE, from differences of log(1 + tokens) within n ≥ 1 pairs."""
    return rms(differences) / 2**0.5


def differences(pairs: Floats) -> Floats:
    """Differences of log(1 + tokens), (n,)."""
    first, second = np.log1p(pairs).T
    return np.asarray(first - second)


def way_to_floor(ours: Floats, simple: Floats) -> tuple[float, float, float]:
    """The share of the way from a simple predictor's log-RMSE to the floor, with its 95 % interval.

    Errors of log(1 + tokens), (n, 2) each: one prediction for each of n lines, against both of its
    answers, whose difference is that of the errors. All three terms are of the same lines, so a
    line that happens to vary much raises all of them. Percentile bootstrap (Efron 1979) over lines;
    the seed is fixed.
    """
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(ours), len(ours))
        draws.append(_way(ours[rows], simple[rows]))
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return _way(ours, simple), low, high


def _way(ours: Floats, simple: Floats) -> float:
    start = rms(simple)
    return (start - rms(ours)) / (start - floor_of(simple[:, 0] - simple[:, 1]))


def _floor(pairs: Floats) -> NoiseFloor:
    rng = np.random.default_rng(SEED)
    noise = differences(pairs)
    draws = [floor_of(rng.choice(noise, len(noise))) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    floor = floor_of(noise)
    return NoiseFloor(len(noise), 2**0.5 * floor, floor, low, high, kendall_tau(*pairs.T))
