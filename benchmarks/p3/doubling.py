"""P3 (c): one app's answers become twice as long from one request to the next."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.switch import tau
from benchmarks.p3.world import ScoredRequests, TrainedVersion, recovery, replay, rolling
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.prediction.training.scorecard import kendall_tau
from gateway.quantiles import MEDIAN, Floats

OUTCOMES_BEFORE: Final = 300
OUTCOMES_AFTER: Final = 700
TAU_OUTCOMES: Final = 300  # last outcomes, over which τ is measured
ORDERS: Final = 10
SMOOTHING_OUTCOMES: Final = 20  # window of the median's factor
MAX_LOG_DEVIATION: Final = log(1.1)  # of the median from double, as a log ratio


@dataclass(frozen=True)
class Doubling:
    """The adaptation to doubled answers of one app.

    `coverage`: rolling, from OUTCOMES_BEFORE outcomes before the change; `recovery`: outcomes until
    it stays within tolerance. `factor` (n,): log ratio of the served to the raw median, relative to
    before the change; `followed`: outcomes until it is close to double. `tau_after`: τ on the
    last outcomes; `tau_level`: that of the raw medians, whose order doubling does not change.
    """

    app: str
    recovery: int | None
    followed: int | None
    coverage: Floats
    factor: Floats
    tau_level: float
    tau_after: float


def doublings(test: EvaluationRequests, version: TrainedVersion) -> Iterator[Doubling]:
    """Each app in turn, with repeated permutations of its test lines."""
    stream = version.score(test)
    for app in np.unique(test.names).tolist():
        yield _doubling(app, stream.rows(np.flatnonzero(test.names == app)), version)


def _doubling(app: str, own: ScoredRequests, version: TrainedVersion) -> Doubling:
    covered, factors, taus = [], [], []
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        passes = [
            random.permutation(len(own))
            for _ in range(1 + (OUTCOMES_BEFORE + OUTCOMES_AFTER) // len(own))
        ]
        drawn = own.rows(np.concatenate(passes)[: OUTCOMES_BEFORE + OUTCOMES_AFTER])
        late = np.arange(len(drawn)) >= OUTCOMES_BEFORE
        drawn = drawn.with_tokens(np.where(late, 2, 1) * drawn.tokens)
        served = replay(version.adaptation(), drawn)
        covered.append(served.covered)
        factors.append(np.log(served.median) - drawn.scored[:, MEDIAN])
        last = slice(-TAU_OUTCOMES, None)
        level = kendall_tau(drawn.tokens[last], drawn.scored[last, MEDIAN])
        taus.append([level, tau(served.rows(last))])
    shown = np.array(covered, dtype=np.float64)
    factor = np.mean(factors, axis=0)
    factor -= factor[OUTCOMES_BEFORE // 2 : OUTCOMES_BEFORE].mean()
    rolling_factor = rolling(factor[OUTCOMES_BEFORE:], SMOOTHING_OUTCOMES)
    there = np.flatnonzero(np.abs(rolling_factor - log(2)) <= MAX_LOG_DEVIATION)
    level, after = np.mean(taus, axis=0).tolist()
    return Doubling(
        app=app,
        recovery=recovery(shown[:, OUTCOMES_BEFORE:])[0],
        followed=int(there[0]) + SMOOTHING_OUTCOMES if len(there) else None,
        coverage=recovery(shown)[1],
        factor=factor,
        tau_level=level,
        tau_after=after,
    )


def doubling_rows(found: list[Doubling]) -> list[Row]:
    """A row for each app."""
    return [
        {
            "doubled app": each.app,
            "coverage back after": each.recovery,
            "median within 10 % after": each.followed,
            "τ of the version": each.tau_level,
            "τ served": each.tau_after,
            "served/version": each.tau_after / each.tau_level,
            "coverage": [round(value, 4) for value in each.coverage.tolist()],
        }
        for each in found
    ]
