"""What a replay tells."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int32]
Marks: TypeAlias = npt.NDArray[np.bool_]


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
    overdue: Marks
    gave_up: Marks

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
