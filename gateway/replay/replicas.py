"""Several engines: one queue in front of all, or a gateway with its own queue before each."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from gateway.errors import InvalidRequest
from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.results import ReplayResults, RequestColumns
from gateway.replay.routers import ONE_QUEUE, ROUTERS, ArrivalRouter, RouterName
from gateway.replay.simulator import MAX_SAMPLES, TAU_FLOOR, Simulation, replay, replayed_engine
from gateway.replay.workload.workload import NO_PREFIX, Workload
from gateway.scheduling.policy import Policy

AnyArray: TypeAlias = npt.NDArray[Any]

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


def replay_engines(
    engines: Sequence[EngineModel],
    workload: Workload,
    policy: Callable[[int], Policy],
    router: RouterName,
    *,
    tau_floor: float | None = TAU_FLOOR,
) -> ReplayResults:
    """The results on these engines; `policy` makes a queue in front of as many as it is given.

    With `predicted-finish` there is one queue, else one for each engine. `tau_floor` as of
    `replay`. InvalidRequest for one queue with lines of jobs, or under a policy for one engine.
    """
    if len(engines) == 1:
        return replay(workload, policy(1), engines[0], tau_floor=tau_floor)
    if router == ONE_QUEUE:
        queue = _queue(workload, policy, len(engines))
        return _simulation(workload, queue, engines, tau_floor, None).run()
    columns = RequestColumns(len(workload))
    replicas = [
        _simulation(workload, policy(1), [engine], tau_floor, columns) for engine in engines
    ]
    tokens = [engine.shape.pages * engine.shape.page_tokens for engine in engines]
    _route(workload, replicas, ROUTERS[router](workload, tokens))
    return combined_results([replica.run() for replica in replicas])


def _queue(workload: Workload, policy: Callable[[int], Policy], engines: int) -> Policy:
    """The one queue in front of as many engines."""
    if workload.batch.any():
        raise InvalidRequest(f"lines of jobs need another router than {ONE_QUEUE}")
    try:
        return policy(engines)
    except ValueError as error:
        raise InvalidRequest(f"{error}: it needs another router than {ONE_QUEUE}") from error


def _simulation(
    workload: Workload,
    policy: Policy,
    engines: Sequence[EngineModel],
    tau_floor: float | None,
    columns: RequestColumns | None,
) -> Simulation:
    return Simulation(
        workload,
        policy,
        [replayed_engine(engine, policy, workload) for engine in engines],
        tau_floor=tau_floor,
        max_samples=MAX_SAMPLES,
        columns=columns,
    )


def _route(workload: Workload, replicas: Sequence[Simulation], router: ArrivalRouter) -> None:
    """Offer each request, as it arrives, to the replica that the router chooses.

    A whole prefix group of a job goes to the replica with the fewest tokens of lines so far.
    """
    tokens = [0] * len(replicas)
    of_group: dict[int, int] = {}
    prompts, groups = workload.prompt_tokens.tolist(), workload.prefix.tolist()
    batch = workload.batch.tolist()
    for index, arrived_s in enumerate(workload.arrived_s.tolist()):
        if not batch[index]:
            for replica in replicas:
                replica.run_until(arrived_s)
            replicas[router.choose(index, replicas)].offer(index)
            continue
        group = groups[index]
        chosen = of_group.get(group, tokens.index(min(tokens)))
        if group != NO_PREFIX:
            of_group[group] = chosen
        tokens[chosen] += prompts[index]
        replicas[chosen].offer(index)


def combined_results(parts: Sequence[ReplayResults]) -> ReplayResults:
    """The results of replicas, which share their columns, as those of one gateway.

    Totals and series are sums.
    """
    times = np.unique(np.concatenate([part.time_s for part in parts]))
    times = times[:: -(-len(times) // max(len(part.time_s) for part in parts))]
    whole: dict[str, Any] = {"time_s": times}
    for name in SERIES:
        series = [_series_at(times, part.time_s, getattr(part, name)) for part in parts]
        whole[name] = np.sum(series, axis=0)
    for name in TOTALS:
        whole[name] = sum(getattr(part, name) for part in parts)
    return replace(parts[0], **whole)


def _series_at(times_s: Floats, series_s: Floats, values: AnyArray) -> Floats:
    """A series at other times: its last value by then, 0 before the first."""
    indices = np.searchsorted(series_s, times_s, side="right")
    before: Floats = np.concatenate([[0.0], values])[indices]
    return before
