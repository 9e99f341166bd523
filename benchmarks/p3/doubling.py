"""P3 (c): one app's answers become twice as long from one request to the next."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.switch import tau
from benchmarks.p3.world import Asked, Version, back, replay, rolling
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.prediction.training.scorecard import kendall_tau
from gateway.quantiles import MEDIAN, Floats

BEFORE: Final = 300
AFTER: Final = 700
SETTLED: Final = 300  # the last outcomes, over which τ is measured again
ORDERS: Final = 10
SMOOTHED: Final = 20  # outcomes that the median's factor is averaged over
WITHIN: Final = log(1.1)  # how far from double the median may be


@dataclass(frozen=True)
class Doubling:
    """Of one app: coverage from BEFORE outcomes before the change, and the median's factor.

    `factor` (n,) is the log of the served median over the version's, less what it was before.
    τ of the last outcomes, and what the version alone reaches on them: doubling leaves its order.
    """

    app: str
    back: int | None
    followed: int | None
    coverage: Floats
    factor: Floats
    tau_level: float
    tau_after: float


def doublings(test: EvaluationRequests, version: Version) -> Iterator[Doubling]:
    """Each app in turn, its test lines drawn over and over."""
    stream = version.asked(test)
    for app in np.unique(test.names).tolist():
        yield _doubling(app, stream.rows(np.flatnonzero(test.names == app)), version)


def _doubling(app: str, own: Asked, version: Version) -> Doubling:
    covered, factors, taus = [], [], []
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        passes = [random.permutation(len(own)) for _ in range(1 + (BEFORE + AFTER) // len(own))]
        drawn = own.rows(np.concatenate(passes)[: BEFORE + AFTER])
        late = np.arange(len(drawn)) >= BEFORE
        drawn = drawn.lasting(np.where(late, 2, 1) * drawn.tokens)
        served = replay(version.adaptation(), drawn)
        covered.append(served.covered)
        factors.append(np.log(served.median) - drawn.scored[:, MEDIAN])
        last = slice(-SETTLED, None)
        level = kendall_tau(drawn.tokens[last], drawn.scored[last, MEDIAN])
        taus.append([level, tau(served.rows(last))])
    shown = np.array(covered, dtype=np.float64)
    factor = np.mean(factors, axis=0)
    factor -= factor[BEFORE // 2 : BEFORE].mean()
    moved = rolling(factor[BEFORE:], SMOOTHED)
    there = np.flatnonzero(np.abs(moved - log(2)) <= WITHIN)
    level, after = np.mean(taus, axis=0).tolist()
    return Doubling(
        app=app,
        back=back(shown[:, BEFORE:])[0],
        followed=int(there[0]) + SMOOTHED if len(there) else None,
        coverage=back(shown)[1],
        factor=factor,
        tau_level=level,
        tau_after=after,
    )


def doubling_rows(found: list[Doubling]) -> list[Row]:
    """A row for each app."""
    return [
        {
            "doubled app": each.app,
            "coverage back after": each.back,
            "median within 10 % after": each.followed,
            "τ of the version": each.tau_level,
            "τ served": each.tau_after,
            "served/version": each.tau_after / each.tau_level,
            "coverage": [round(value, 4) for value in each.coverage.tolist()],
        }
        for each in found
    ]
