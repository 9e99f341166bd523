"""Several engines, each with its own gateway; a load balancer gives them requests in turn."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.results import ReplayResults
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Policy

AnyArray: TypeAlias = npt.NDArray[Any]

COLUMNS: Final = (
    "dispatched_s",
    "first_token_s",
    "finished_s",
    "preemptions",
    "reused_tokens",
    "batch_size",
    "overdue",
    "gave_up",
)
SERIES: Final = ("waiting", "running", "kv_pages")
TOTALS: Final = (
    "steps",
    "computed_tokens",
    "recomputed_tokens",
    "invalid_tokens",
    "splits",
    "pins",
    "pins_lost",
    "held_rows",
    "busy_s",
    "page_seconds",
    "order_changes",
    "decisions",
    "decision_s",
)


def replay_replicas(
    engines: int, workload: Workload, policy: Callable[[], Policy], engine: EngineModel
) -> ReplayResults:
    """The results on `engines` equal engines: request i goes to engine i mod `engines`.

    Each engine has its own queue and policy.
    """
    if engines == 1:
        return replay(workload, policy(), engine)
    parts = [
        replay(workload.take(slice(first, None, engines)), policy(), engine)
        for first in range(min(engines, len(workload)))
    ]
    return combined_results(parts)


def combined_results(parts: Sequence[ReplayResults]) -> ReplayResults:
    """The results of replicas as those of one gateway; totals and series are sums."""
    times = np.unique(np.concatenate([part.time_s for part in parts]))
    times = times[:: -(-len(times) // len(parts[0].time_s))]
    whole: dict[str, Any] = {"time_s": times}
    for name in COLUMNS:
        whole[name] = _interleaved([getattr(part, name) for part in parts])
    for name in SERIES:
        series = [_series_at(times, part.time_s, getattr(part, name)) for part in parts]
        whole[name] = np.sum(series, axis=0)
    for name in TOTALS:
        whole[name] = sum(getattr(part, name) for part in parts)
    return ReplayResults(**whole)


def _interleaved(parts: Sequence[AnyArray]) -> AnyArray:
    """The columns of replicas, back in the order of requests."""
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole


def _series_at(times_s: Floats, series_s: Floats, values: AnyArray) -> Floats:
    """A series at other times: its last value by then, 0 before the first."""
    indices = np.searchsorted(series_s, times_s, side="right")
    before: Floats = np.concatenate([[0.0], values])[indices]
    return before
