"""How many rows of each app a training set takes, and what each of them stands for.

An app's rows are two strata: easy ones, and Magnus's hard ones, which the prediction served at the
time missed (`Record.hard`). The core of a training set takes both at the same rate, the same rate
for all apps but the small ones, which give more. Hard rows are taken up to MAX_HARD_RATE times as densely,
as long as these extra rows are at most MAX_EXTRA_SHARE of the set. Each row weighs the inverse of its chance
to be taken (Horvitz and Thompson 1952), so the weighted set keeps the quantiles of history.

The newest rows, on which a version is judged and from which its calibration starts, hold no extra
hard ones: there each row counts the same.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.quantiles import Bools, Floats

MAX_EXTRA_SHARE: Final = 0.2  # most of the set that are extra hard rows
MAX_HARD_RATE: Final = (
    4.0  # a hard row's chance over an easy one's, at most; so are their weights' ratio
)
MIN_APP_ROWS: Final = 200  # rows of an app that has as many
NEWEST_SHARE: Final = 0.2  # share of the set that `gateway.prediction.training.fitting` judges on
BISECTION_STEPS: Final = 60  # of bisection


class Stratum(Struct, frozen=True):
    """The rows of one app that could be learned from: how many are easy, how many hard."""

    app: UUID
    easy: int
    hard: int

    @property
    def rows(self) -> int:
        """All of them."""
        return self.easy + self.hard


class Quota(Struct, frozen=True):
    """How many rows to take of one app; `core_hard` of the `hard` ones belong to the core."""

    easy: int
    hard: int
    core_hard: int


def allocate(strata: Sequence[Stratum], most: int) -> list[Quota]:
    """A quota for each app, together at most `most` rows; everything where that is enough."""
    if sum(stratum.rows for stratum in strata) <= most:
        return [Quota(each.easy, each.hard, each.hard) for each in strata]
    sizes = np.array([each.rows for each in strata], dtype=np.float64)
    core = _core(sizes, most - round(MAX_EXTRA_SHARE * most))
    hards = np.array([each.hard for each in strata], dtype=np.float64)
    core_hard = np.minimum(np.rint(core * hards / sizes), core)
    # The part of a stratum that is not empty is not left out while there is room for both.
    core_hard = np.where((hards > 0) & (core > 1), np.maximum(core_hard, 1), core_hard)
    core_hard = np.where((hards < sizes) & (core > 1), np.minimum(core_hard, core - 1), core_hard)
    wanted = np.minimum(hards, np.floor(MAX_HARD_RATE * core_hard)) - core_hard
    share = min(1.0, round(MAX_EXTRA_SHARE * most) / max(wanted.sum(), 1.0))
    extra = np.floor(share * wanted)
    return [
        Quota(int(rows - hard), int(hard + more), int(hard))
        for rows, hard, more in zip(core, core_hard, extra, strict=True)
    ]


def newest_from(at: Floats, core: Bools) -> float:
    """From when on n ≥ 1 rows lose their extra ones, so that the newest NEWEST_SHARE are all core.

    `at` is when each arrived, in any unit. Infinity where there are no extra rows.
    """
    if core.all():
        return float("inf")
    order = np.argsort(-at, kind="stable")
    newer_core = np.cumsum(core[order])
    older_extra = (~core).sum() - np.cumsum(~core[order])
    enough = newer_core >= NEWEST_SHARE * (core.sum() + older_extra)
    return float(at[order[np.argmax(enough)]]) if enough.any() else float(at.min())


def weights(population: Floats, taken: Floats) -> Floats:
    """What n rows stand for, on average 1: of `population` rows like each, `taken` were taken."""
    stands_for = population / taken
    return np.asarray(stands_for / stands_for.mean()) if len(stands_for) else stands_for


def _core(sizes: Floats, budget: int) -> Floats:
    """Rows of each app, together at most `budget`: a common share, but MIN_APP_ROWS of who has them.

    With more apps than rows, one row of each of the largest.
    """
    if len(sizes) >= budget:
        core = np.zeros(len(sizes))
        core[np.argsort(-sizes, kind="stable")[:budget]] = 1.0
        return core
    least = max(1.0, min(MIN_APP_ROWS, budget // (2 * len(sizes))))

    def taken(share: float) -> Floats:
        return np.asarray(np.minimum(sizes, np.maximum(least, np.floor(share * sizes))))

    low, high = 0.0, 1.0
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle).sum() <= budget else (low, middle)
    return taken(low)
