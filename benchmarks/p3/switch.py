"""P3 (b): the mix of apps changes from one request to the next."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.world import (
    Rows,
    ScoredRequests,
    ServedQuantiles,
    TrainedVersion,
    concatenate,
    first_rows_per_app,
    fit_version,
    in_apps,
    make_version,
    recovery,
    replay,
    select_rows,
    serve_only,
)
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.sentences import Progress
from gateway.prediction.training.scorecard import kendall_tau
from gateway.quantiles import Bools, Floats

OUTCOMES_BEFORE: Final = 500
OUTCOMES_AFTER: Final = 1_000
ORDERS: Final = 20
RETRAINED_ROWS: Final = 600  # per earlier app, in retraining
MAJORITY_SHARE: Final = 0.9  # of the traffic, of the majority half of the apps
TRAINED_SHARE: Final = 0.75  # of the rows; the rest arrives later
MIX_REQUESTS: Final = 2_000  # test requests drawn per mix


@dataclass(frozen=True)
class MixChange:
    """The effect of a changed mix of apps.

    `coverage`: rolling, from OUTCOMES_BEFORE outcomes before the change; `recovery`: outcomes until
    it stays within tolerance. τ on test lines: `at_once`; `adapted` by OUTCOMES_AFTER outcomes (one
    order); `retrained` with these; `level`, after full training on the new mix.
    """

    name: str
    recovery: int | None
    coverage: Floats
    at_once: float
    adapted: float
    retrained: float
    level: float


@dataclass(frozen=True)
class _MixScenario:
    """A change of the mix: `train` rows to fit on and to arrive, `test` rows to evaluate."""

    name: str
    trained: Rows
    arriving: tuple[Rows, Rows]
    test: Rows
    level: Rows


def switches(
    train: EvaluationRequests, test: EvaluationRequests, progress: Progress, threads: int
) -> list[MixChange]:
    """Half of the apps is replaced by the other half; and a 9 : 1 mix of halves becomes 1 : 9."""
    return [
        _switch(change, train, test, progress, threads)
        for change in (_new_half(train, test), _flip(train, test))
    ]


def halves(requests: EvaluationRequests) -> tuple[list[str], list[str]]:
    """The apps in two halves, alternating by name, so that both contain both families."""
    apps = np.unique(requests.names).tolist()
    return apps[::2], apps[1::2]


def _new_half(train: EvaluationRequests, test: EvaluationRequests) -> _MixScenario:
    old, new = (in_apps(train.names, half) for half in halves(train))
    random = np.random.default_rng(0)
    olds = random.permutation(np.flatnonzero(old))
    cut = round(TRAINED_SHARE * len(olds))
    return _MixScenario(
        name="seven other apps",
        trained=np.sort(olds[:cut]),
        arriving=(olds[cut:], np.flatnonzero(new)),
        test=np.flatnonzero(in_apps(test.names, halves(train)[1])),
        level=np.flatnonzero(new),
    )


def _flip(train: EvaluationRequests, test: EvaluationRequests) -> _MixScenario:
    random = np.random.default_rng(0)
    first, second = (in_apps(train.names, half) for half in halves(train))
    ones, twos = (random.permutation(np.flatnonzero(half)) for half in (first, second))
    rare = (1 - MAJORITY_SHARE) / MAJORITY_SHARE
    cuts = [round(TRAINED_SHARE * len(each)) for each in (ones, twos)]
    few = [round(rare * cut) for cut in reversed(cuts)]
    left = ones[cuts[0] :], twos[cuts[1] :]
    mine = [in_apps(test.names, half) for half in halves(train)]
    return _MixScenario(
        name="9 : 1 becomes 1 : 9",
        trained=np.sort(np.concatenate((ones[: cuts[0]], twos[: few[1]]))),
        arriving=(_mixed(*left, MAJORITY_SHARE, random), _mixed(*left, 1 - MAJORITY_SHARE, random)),
        test=_mixed(np.flatnonzero(mine[0]), np.flatnonzero(mine[1]), 1 - MAJORITY_SHARE, random),
        level=np.sort(np.concatenate((ones[: few[0]], twos[: cuts[1]]))),
    )


def _mixed(first: Rows, second: Rows, share: float, random: np.random.Generator) -> Rows:
    """MIX_REQUESTS rows drawn from both; `share` of them from the first."""
    count = round(share * MIX_REQUESTS)
    drawn = random.choice(first, count), random.choice(second, MIX_REQUESTS - count)
    return random.permutation(np.concatenate(drawn))


def _switch(
    change: _MixScenario,
    train: EvaluationRequests,
    test: EvaluationRequests,
    progress: Progress,
    threads: int,
) -> MixChange:
    progress(f"(b) {change.name}")
    version = make_version(select_rows(train, change.trained), threads)
    before, after = (version.score(select_rows(train, rows)) for rows in change.arriving)
    requests = select_rows(test, change.test)
    test_requests = version.score(requests)
    covered, adapted = [], 0.0
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        adaptation = version.adaptation()
        then = replay(adaptation, _drawn(before, OUTCOMES_BEFORE, random))
        now = replay(adaptation, _drawn(after, OUTCOMES_AFTER, random))
        covered.append(np.concatenate((then.covered, now.covered)))
        if seed == 0:
            adapted = tau(serve_only(adaptation, test_requests))
    shown = np.array(covered, dtype=np.float64)
    newest = select_rows(
        train, change.arriving[1][_rows(len(after), OUTCOMES_AFTER, np.random.default_rng(99))]
    )
    past = select_rows(train, change.trained)
    again = fit_version(
        concatenate(select_rows(past, first_rows_per_app(past.names, RETRAINED_ROWS)), newest),
        threads,
    )
    level = fit_version(select_rows(train, change.level), threads)
    return MixChange(
        name=change.name,
        recovery=recovery(shown[:, OUTCOMES_BEFORE:])[0],
        coverage=recovery(shown)[1],
        at_once=tau(serve_only(version.adaptation(), test_requests)),
        adapted=adapted,
        retrained=_tau_of(again, requests),
        level=_tau_of(level, requests),
    )


def _drawn(stream: ScoredRequests, count: int, random: np.random.Generator) -> ScoredRequests:
    return stream.rows(_rows(len(stream), count, random))


def _rows(held: int, count: int, random: np.random.Generator) -> Rows:
    return random.choice(held, count, replace=held < count)


def _tau_of(version: TrainedVersion, requests: EvaluationRequests) -> float:
    return tau(serve_only(version.adaptation(), version.score(requests)))


def tau(served: ServedQuantiles, rows: Bools | slice = slice(None)) -> float:
    """Kendall's τ between medians and lengths."""
    return kendall_tau(served.tokens[rows], served.median[rows])


def switch_rows(found: list[MixChange]) -> list[Row]:
    """A row for each change."""
    return [
        {
            "change": each.name,
            "coverage back after": each.recovery,
            "lowest": float(each.coverage.min()),
            "highest": float(each.coverage.max()),
            "τ at once": each.at_once,
            f"τ after {OUTCOMES_AFTER} outcomes": each.adapted,
            "τ retrained": each.retrained,
            "τ of full training": each.level,
            "retrained/full": each.retrained / each.level,
            "coverage": [round(value, 4) for value in each.coverage.tolist()],
        }
        for each in found
    ]
