"""Several engines, each with its own gateway; a load balancer gives them requests in turn."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.results import ReplayResults
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import NO_PREFIX, Workload
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

    Each engine has its own queue and policy. Lines of jobs go in whole groups, each group to the
    engine with the fewest tokens of lines so far.
    """
    if engines == 1:
        return replay(workload, policy(), engine)
    chosen = engine_of(workload, engines)
    places = [np.flatnonzero(chosen == number) for number in np.unique(chosen)]
    parts = [replay(workload.take(each), policy(), engine) for each in places]
    return combined_results(parts, places)


def engine_of(workload: Workload, engines: int) -> npt.NDArray[np.int64]:
    """The engine of each request: (n,)."""
    lines = np.flatnonzero(workload.batch)
    chosen = np.zeros(len(workload), np.int64)
    others = np.flatnonzero(~workload.batch)
    chosen[others] = np.arange(len(others)) % engines
    tokens = [0] * engines
    of_group: dict[int, int] = {}
    for line in lines.tolist():
        group = int(workload.prefix[line])
        number = of_group.get(group, NO_PREFIX)
        if number == NO_PREFIX:
            number = tokens.index(min(tokens))
            if group != NO_PREFIX:
                of_group[group] = number
        chosen[line] = number
        tokens[number] += int(workload.prompt_tokens[line])
    return chosen


def combined_results(parts: Sequence[ReplayResults], places: Sequence[AnyArray]) -> ReplayResults:
    """The results of replicas as those of one gateway; totals and series are sums.

    `places` are the indices of each replica's requests.
    """
    times = np.unique(np.concatenate([part.time_s for part in parts]))
    times = times[:: -(-len(times) // len(parts[0].time_s))]
    whole: dict[str, Any] = {"time_s": times}
    for name in COLUMNS:
        whole[name] = _together([getattr(part, name) for part in parts], places)
    for name in SERIES:
        series = [_series_at(times, part.time_s, getattr(part, name)) for part in parts]
        whole[name] = np.sum(series, axis=0)
    for name in TOTALS:
        whole[name] = sum(getattr(part, name) for part in parts)
    return ReplayResults(**whole)


def _together(parts: Sequence[AnyArray], places: Sequence[AnyArray]) -> AnyArray:
    """The columns of replicas, back in the order of requests."""
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for part, place in zip(parts, places, strict=True):
        whole[place] = part
    return whole


def _series_at(times_s: Floats, series_s: Floats, values: AnyArray) -> Floats:
    """A series at other times: its last value by then, 0 before the first."""
    indices = np.searchsorted(series_s, times_s, side="right")
    before: Floats = np.concatenate([[0.0], values])[indices]
    return before
