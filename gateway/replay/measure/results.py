"""The results of a replay: columns of its requests, series over time, totals."""

from typing import Final

import numpy as np
from msgspec import Struct

from gateway.quantiles import Bools, Floats
from gateway.replay.workload.workload import Int32s

MIN_INTERVAL_S: Final = 1e-3  # between rows of a series


class ReplayResults(Struct, kw_only=True):
    """Columns (n,) of the workload's requests, series over time, and totals.

    Times are on the workload's clock, NaN for an event that did not happen. `batch_size` is the
    number of requests dispatched together, at the last dispatch; 0 without one. `gave_up` marks the
    requests that never ran: too large for the engine, or removed from the queue as too late.
    Series (m,) are sampled at `time_s`. `invalid_tokens` were generated in lock step after the end
    of their answer. `order_changes` counts the policy's changes to order of arrival and back,
    `splits` the lock-step batches that ran out of memory; `decision_s` is the processor time of
    its decisions on this machine. `reused_tokens` of a prompt had been computed by others when it
    first ran. Of the `pins` that the gateway made, the engine released or refused `pins_lost`.
    `held_rows` counts, step by step, the decoding lines of jobs that a step left out.
    """

    dispatched_s: Floats
    first_token_s: Floats
    finished_s: Floats
    preemptions: Int32s
    reused_tokens: Int32s
    batch_size: Int32s
    overdue: Bools
    gave_up: Bools

    time_s: Floats
    waiting: Floats
    running: Floats
    kv_pages: Floats

    steps: int
    computed_tokens: int
    recomputed_tokens: int
    invalid_tokens: int
    splits: int
    pins: int
    pins_lost: int
    held_rows: int
    busy_s: float
    page_seconds: float
    order_changes: int
    decisions: int
    decision_s: float


class RequestColumns:
    """The columns of `ReplayResults`, filled during a run."""

    def __init__(self, requests: int) -> None:
        self.dispatched_s, self.first_token_s, self.finished_s = np.full((3, requests), np.nan)
        self.preemptions, self.reused_tokens, self.batch_size = np.zeros(
            (3, requests), dtype=np.int32
        )
        self.overdue, self.gave_up = np.zeros((2, requests), dtype=np.bool_)


class SeriesSampler:
    """Samples values over the time of a run, at equal intervals.

    The duration of a run is not known in advance: at `max_rows` rows every other one is dropped,
    and the interval doubles.
    """

    def __init__(self, began_s: float, expected_s: float, max_rows: int) -> None:
        if max_rows < 2:  # noqa: PLR2004
            raise ValueError(f"a series has 2 rows or more, not {max_rows}")
        self.next_s = self._began_s = began_s
        self._interval_s = max(2 * expected_s / max_rows, MIN_INTERVAL_S)
        self._max_rows = max_rows
        self._rows: list[tuple[float, ...]] = []

    def add(self, *values: float) -> None:
        """Add the values at `next_s`."""
        self._rows.append((self.next_s, *values))
        if len(self._rows) == self._max_rows:
            self._rows = self._rows[::2]
            self._interval_s *= 2
        self.next_s = self._began_s + len(self._rows) * self._interval_s

    def columns(self, width: int) -> Floats:
        """Times and values: (1 + width, rows)."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, 1 + width).T
