"""What came of a replay: columns of its requests, series over time, totals."""

from typing import Final

import numpy as np
from msgspec import Struct

from gateway.quantiles import Bools, Floats
from gateway.replay.workload.workload import Counts

SHORTEST_S: Final = 1e-3  # between two rows of a series


class Outcomes(Struct, kw_only=True):
    """Columns (n,) of the workload's requests, series over time, and totals.

    Times are on the workload's clock; NaN for what a request did not come to. `gave_up` are those
    that never ran: too large for the engine, or taken from the queue because they were too late.
    Series (m,) are as they were at `time_s`. `order_changes` counts how often the policy fell back
    on order of arrival, or returned; `decision_s` is what its decisions took on this machine.
    """

    dispatched_s: Floats
    first_token_s: Floats
    finished_s: Floats
    preemptions: Counts
    overdue: Bools
    gave_up: Bools

    time_s: Floats
    waiting: Floats
    running: Floats
    kv_pages: Floats

    steps: int
    computed_tokens: int
    recomputed_tokens: int
    busy_s: float
    page_seconds: float
    order_changes: int
    decisions: int
    decision_s: float


class Answers:
    """The columns of outcomes while they fill."""

    def __init__(self, requests: int) -> None:
        self.dispatched_s, self.first_token_s, self.finished_s = np.full((3, requests), np.nan)
        self.preemptions = np.zeros(requests, dtype=np.int32)
        self.overdue, self.gave_up = np.zeros((2, requests), dtype=np.bool_)


class Series:
    """Values sampled over time while a run goes on: rows, equally far apart.

    How long a run takes is not known before: when `most` rows are there, every other one is
    dropped, and from then on they are twice as far apart.
    """

    def __init__(self, began_s: float, about_s: float, most: int) -> None:
        if most < 2:  # noqa: PLR2004
            raise ValueError(f"a series has 2 rows or more, not {most}")
        self.next_s = self._began_s = began_s
        self._apart_s = max(2 * about_s / most, SHORTEST_S)
        self._most = most
        self._rows: list[tuple[float, ...]] = []

    def add(self, *values: float) -> None:
        """The values at `next_s`."""
        self._rows.append((self.next_s, *values))
        if len(self._rows) == self._most:
            self._rows = self._rows[::2]
            self._apart_s *= 2
        self.next_s = self._began_s + len(self._rows) * self._apart_s

    def columns(self, width: int) -> Floats:
        """Times and values: (1 + width, rows)."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, 1 + width).T
