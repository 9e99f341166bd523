"""P3 (b): the mix of apps changes from one request to the next."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.world import (
    Asked,
    Rows,
    Say,
    Served,
    Version,
    at_most,
    back,
    fitted,
    joined,
    make_version,
    of_apps,
    part,
    replay,
    serve,
)
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.prediction.training.scorecard import kendall_tau
from gateway.quantiles import Bools, Floats

BEFORE: Final = 500
AFTER: Final = 1_000
ORDERS: Final = 20
REMEMBERED: Final = 600  # rows of each app of the past, where a version is trained again
SHARE: Final = 0.9  # of the traffic that one half of the apps has where proportions flip
TRAINED: Final = 0.75  # of the rows that are in the training set of the flip, the rest arrives
ASKED: Final = 2_000  # test requests of a mix, drawn


@dataclass(frozen=True)
class Switch:
    """What a change did: rolling coverage from BEFORE outcomes before it, and τ on test lines.

    τ `at_once`, `adapted` by AFTER outcomes (one order), `retrained` with these, and the `level`
    that training on the new mix in full reaches.
    """

    name: str
    back: int | None
    coverage: Floats
    at_once: float
    adapted: float
    retrained: float
    level: float


@dataclass(frozen=True)
class _Change:
    """Before and after: rows of `train` trained on, and that arrive; `test` rows asked about."""

    name: str
    trained: Rows
    arriving: tuple[Rows, Rows]
    test: Rows
    level: Rows


def switches(
    train: EvaluationRequests, test: EvaluationRequests, say: Say, threads: int
) -> list[Switch]:
    """Seven apps give way to the other seven; and 9 : 1 of two halves becomes 1 : 9."""
    return [
        _switch(change, train, test, say, threads)
        for change in (_new_half(train, test), _flip(train, test))
    ]


def halves(requests: EvaluationRequests) -> tuple[list[str], list[str]]:
    """Every other app by name: both families in each half."""
    apps = np.unique(requests.names).tolist()
    return apps[::2], apps[1::2]


def _new_half(train: EvaluationRequests, test: EvaluationRequests) -> _Change:
    old, new = (of_apps(train.names, half) for half in halves(train))
    random = np.random.default_rng(0)
    olds = random.permutation(np.flatnonzero(old))
    cut = round(TRAINED * len(olds))
    return _Change(
        name="seven other apps",
        trained=np.sort(olds[:cut]),
        arriving=(olds[cut:], np.flatnonzero(new)),
        test=np.flatnonzero(of_apps(test.names, halves(train)[1])),
        level=np.flatnonzero(new),
    )


def _flip(train: EvaluationRequests, test: EvaluationRequests) -> _Change:
    random = np.random.default_rng(0)
    first, second = (of_apps(train.names, half) for half in halves(train))
    ones, twos = (random.permutation(np.flatnonzero(half)) for half in (first, second))
    rare = (1 - SHARE) / SHARE
    cuts = [round(TRAINED * len(each)) for each in (ones, twos)]
    few = [round(rare * cut) for cut in reversed(cuts)]
    left = ones[cuts[0] :], twos[cuts[1] :]
    mine = [of_apps(test.names, half) for half in halves(train)]
    return _Change(
        name="9 : 1 becomes 1 : 9",
        trained=np.sort(np.concatenate((ones[: cuts[0]], twos[: few[1]]))),
        arriving=(_mixed(*left, SHARE, random), _mixed(*left, 1 - SHARE, random)),
        test=_mixed(np.flatnonzero(mine[0]), np.flatnonzero(mine[1]), 1 - SHARE, random),
        level=np.sort(np.concatenate((ones[: few[0]], twos[: cuts[1]]))),
    )


def _mixed(first: Rows, second: Rows, share: float, random: np.random.Generator) -> Rows:
    """ASKED rows, a share of them of the first."""
    count = round(share * ASKED)
    drawn = random.choice(first, count), random.choice(second, ASKED - count)
    return random.permutation(np.concatenate(drawn))


def _switch(
    change: _Change, train: EvaluationRequests, test: EvaluationRequests, say: Say, threads: int
) -> Switch:
    say(f"(b) {change.name}")
    version = make_version(part(train, change.trained), threads)
    before, after = (version.asked(part(train, rows)) for rows in change.arriving)
    asked = part(test, change.test)
    waiting = version.asked(asked)
    covered, adapted = [], 0.0
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        adaptation = version.adaptation()
        then = replay(adaptation, _drawn(before, BEFORE, random))
        now = replay(adaptation, _drawn(after, AFTER, random))
        covered.append(np.concatenate((then.covered, now.covered)))
        if seed == 0:
            adapted = tau(serve(adaptation, waiting))
    shown = np.array(covered, dtype=np.float64)
    newest = part(train, change.arriving[1][_rows(len(after), AFTER, np.random.default_rng(99))])
    past = part(train, change.trained)
    again = fitted(joined(part(past, at_most(past.names, REMEMBERED)), newest), threads)
    level = fitted(part(train, change.level), threads)
    return Switch(
        name=change.name,
        back=back(shown[:, BEFORE:])[0],
        coverage=back(shown)[1],
        at_once=tau(serve(version.adaptation(), waiting)),
        adapted=adapted,
        retrained=_tau_of(again, asked),
        level=_tau_of(level, asked),
    )


def _drawn(stream: Asked, count: int, random: np.random.Generator) -> Asked:
    return stream.rows(_rows(len(stream), count, random))


def _rows(held: int, count: int, random: np.random.Generator) -> Rows:
    return random.choice(held, count, replace=held < count)


def _tau_of(version: Version, requests: EvaluationRequests) -> float:
    return tau(serve(version.adaptation(), version.asked(requests)))


def tau(served: Served, rows: Bools | slice = slice(None)) -> float:
    """Kendall's τ of medians and lengths."""
    return kendall_tau(served.tokens[rows], served.median[rows])


def switch_rows(found: list[Switch]) -> list[Row]:
    """A row for each change."""
    return [
        {
            "change": each.name,
            "coverage back after": each.back,
            "lowest": float(each.coverage.min()),
            "highest": float(each.coverage.max()),
            "τ at once": each.at_once,
            f"τ after {AFTER} outcomes": each.adapted,
            "τ retrained": each.retrained,
            "τ of full training": each.level,
            "retrained/full": each.retrained / each.level,
            "coverage": [round(value, 4) for value in each.coverage.tolist()],
        }
        for each in found
    ]
