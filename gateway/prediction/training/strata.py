"""Stratified sampling of a training set: quotas per app, and weights.

An app's rows form two strata: easy rows, and hard rows in the sense of Magnus, which were
mispredicted when served (`Record.hard`). The *core* of a training set samples both strata at the
same rate, equal for all apps except small ones, which have a minimum. Hard rows are oversampled up
to MAX_HARD_RATE times that rate, while these *extra* rows are at most MAX_EXTRA_SHARE of the set. A
row's weight is the inverse of its sampling rate (Horvitz and Thompson 1952), so the weighted set
has the quantiles of history.

The newest rows, on which a version is evaluated and its calibration starts, contain no extra rows:
there all weights are those of the core.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.quantiles import Bools, Floats

MAX_EXTRA_SHARE: Final = 0.2  # of the set that are extra hard rows
MAX_HARD_RATE: Final = 4.0  # sampling rate of hard rows over that of easy ones
MIN_APP_ROWS: Final = 200  # of the core, for an app with as many rows
NEWEST_SHARE: Final = 0.2  # of the set; held out by `fitting`
BISECTION_STEPS: Final = 60  # of the sampling rate


class Stratum(Struct, frozen=True):
    """The numbers of easy and of hard rows of an app that training may read."""

    app: UUID
    easy: int
    hard: int

    @property
    def rows(self) -> int:
        """All rows."""
        return self.easy + self.hard


class Quota(Struct, frozen=True):
    """The numbers of rows to sample from an app; `core_hard` of the `hard` rows are core."""

    easy: int
    hard: int
    core_hard: int


def allocate(strata: Sequence[Stratum], max_rows: int) -> list[Quota]:
    """A quota per app, at most `max_rows` rows in total; all rows if they fit."""
    if sum(stratum.rows for stratum in strata) <= max_rows:
        return [Quota(each.easy, each.hard, each.hard) for each in strata]
    sizes = np.array([each.rows for each in strata], dtype=np.float64)
    core = _core(sizes, max_rows - round(MAX_EXTRA_SHARE * max_rows))
    hards = np.array([each.hard for each in strata], dtype=np.float64)
    core_hard = np.minimum(np.rint(core * hards / sizes), core)
    # With two rows or more, both non-empty strata are sampled.
    core_hard = np.where((hards > 0) & (core > 1), np.maximum(core_hard, 1), core_hard)
    core_hard = np.where((hards < sizes) & (core > 1), np.minimum(core_hard, core - 1), core_hard)
    wanted = np.minimum(hards, np.floor(MAX_HARD_RATE * core_hard)) - core_hard
    share = min(1.0, round(MAX_EXTRA_SHARE * max_rows) / max(wanted.sum(), 1.0))
    extra = np.floor(share * wanted)
    return [
        Quota(int(rows - hard), int(hard + more), int(hard))
        for rows, hard, more in zip(core, core_hard, extra, strict=True)
    ]


def newest_from(arrived: Floats, core: Bools) -> float:
    """The time from which n ≥ 1 rows drop extra ones, so that the newest NEWEST_SHARE are core.

    `arrived` are arrival times in any unit. Infinity without extra rows.
    """
    if core.all():
        return float("inf")
    order = np.argsort(-arrived, kind="stable")
    newer_core = np.cumsum(core[order])
    older_extra = (~core).sum() - np.cumsum(~core[order])
    enough = newer_core >= NEWEST_SHARE * (core.sum() + older_extra)
    return float(arrived[order[np.argmax(enough)]]) if enough.any() else float(arrived.min())


def weights(population: Floats, taken: Floats) -> Floats:
    """Weights of n rows, with mean 1, where `taken` of `population` rows were sampled."""
    inverse_rate = population / taken
    return np.asarray(inverse_rate / inverse_rate.mean()) if len(inverse_rate) else inverse_rate


def _core(sizes: Floats, budget: int) -> Floats:
    """Core rows per app, at most `budget` in total: a common rate, but at least MIN_APP_ROWS.

    With more apps than rows, one row of each of the largest apps.
    """
    if len(sizes) >= budget:
        core = np.zeros(len(sizes))
        core[np.argsort(-sizes, kind="stable")[:budget]] = 1.0
        return core
    min_rows = max(1.0, min(MIN_APP_ROWS, budget // (2 * len(sizes))))

    def taken(share: float) -> Floats:
        return np.asarray(np.minimum(sizes, np.maximum(min_rows, np.floor(share * sizes))))

    low, high = 0.0, 1.0
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle).sum() <= budget else (low, middle)
    return taken(low)
