"""What a replay comes to in numbers."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from gateway.quantiles import Bools, Floats
from gateway.replay.measure.outcomes import Outcomes
from gateway.replay.workload.workload import Workload

DECILES: Final = 10


class Measures(Struct, frozen=True, kw_only=True):
    """A run in numbers: seconds, tokens, or shares of 1. NaN where there is nothing to say.

    Response, time to first token (TTFT) and wait before dispatch count from the arrival, over the
    requests that were answered. `deciles_s` is the mean response by decile of true length, shortest
    first; `served` is each tenant's share of the tokens generated, `tenants_s` its mean response.
    `kv_use` is over the time the engine worked. `goodput_s` counts requests answered in time, of
    those that have a deadline, for each second from the first arrival to the last answer.
    `extra_delay_s` is the longest that a request was dispatched after its dispatch under `fcfs`, on
    the same workload.
    """

    requests: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    ttft_mean_s: float
    ttft_p99_s: float
    wait_mean_s: float
    wait_p99_s: float
    makespan_s: float
    requests_s: float
    tokens_s: float
    kv_use: float
    preempted: float
    recomputed: float
    overdue: float
    in_time: float
    goodput_s: float
    gave_up: float
    extra_delay_s: float
    decision_us: float
    order_changes: float
    deciles_s: tuple[float, ...]
    served: dict[str, float]
    tenants_s: dict[str, float]


def measure(
    workload: Workload, outcomes: Outcomes, pages: int, first_come_s: Floats | None = None
) -> Measures:
    """The numbers of a run on engines of `pages` KV pages together.

    `first_come_s` (n,) tells when each request was dispatched under `fcfs`.
    """
    answered = ~np.isnan(outcomes.finished_s)
    response_s = (outcomes.finished_s - workload.arrived_s)[answered]
    ttft_s = (outcomes.first_token_s - workload.arrived_s)[answered]
    wait_s = (outcomes.dispatched_s - workload.arrived_s)[answered]
    tokens = workload.generation_tokens[answered]
    makespan_s = _largest(outcomes.finished_s) - float(workload.arrived_s[0])
    p50_s, p90_s, p99_s = _quantiles(response_s, 0.5, 0.9, 0.99)
    due = ~np.isnan(workload.deadline_s)
    in_time = due & (outcomes.finished_s - workload.arrived_s <= workload.deadline_s)
    return Measures(
        requests=len(workload),
        mean_s=_mean(response_s),
        p50_s=p50_s,
        p90_s=p90_s,
        p99_s=p99_s,
        ttft_mean_s=_mean(ttft_s),
        ttft_p99_s=_quantiles(ttft_s, 0.99)[0],
        wait_mean_s=_mean(wait_s),
        wait_p99_s=_quantiles(wait_s, 0.99)[0],
        makespan_s=makespan_s,
        requests_s=_over(len(response_s), makespan_s),
        tokens_s=_over(float(tokens.sum()), makespan_s),
        kv_use=_over(outcomes.page_seconds, pages * outcomes.busy_s),
        preempted=_mean(outcomes.preemptions > 0),
        recomputed=_over(outcomes.recomputed_tokens, outcomes.computed_tokens),
        overdue=_mean(outcomes.overdue),
        in_time=_mean(in_time[due]),
        goodput_s=_over(float(in_time.sum()), makespan_s) if due.any() else float("nan"),
        gave_up=_mean(outcomes.gave_up),
        extra_delay_s=_extra_delay_s(outcomes, first_come_s),
        decision_us=_over(1e6 * outcomes.decision_s, outcomes.decisions),
        order_changes=outcomes.order_changes,
        deciles_s=deciles(tokens, response_s),
        served=served(workload, answered),
        tenants_s=_tenants_s(workload, answered, response_s),
    )


def deciles(tokens: npt.NDArray[np.int32], response_s: Floats) -> tuple[float, ...]:
    """Mean response of each tenth of the requests by length; equal lengths in order of arrival."""
    by_length = response_s[np.argsort(tokens, kind="stable")]
    return tuple(_mean(part) for part in np.array_split(by_length, DECILES))


def served(workload: Workload, answered: Bools) -> dict[str, float]:
    """Each tenant's share of the tokens generated, by name."""
    tokens = _by_tenant(workload, answered, workload.generation_tokens[answered])
    return {name: _over(tokens[place], tokens.sum()) for place, name in enumerate(workload.tenants)}


def _tenants_s(workload: Workload, answered: Bools, response_s: Floats) -> dict[str, float]:
    sums_s = _by_tenant(workload, answered, response_s)
    counts = _by_tenant(workload, answered, np.ones(len(response_s)))
    return {
        name: _over(sums_s[place], counts[place]) for place, name in enumerate(workload.tenants)
    }


def _by_tenant(workload: Workload, answered: Bools, amounts: npt.NDArray[Any]) -> Floats:
    """Sums of what each of the answered requests amounts to, by the tenant's place."""
    tenant = workload.tenant[answered]
    weights = np.asarray(amounts, np.float64)
    sums: Floats = np.bincount(tenant, weights, len(workload.tenants)).astype(np.float64)
    return sums


def _extra_delay_s(outcomes: Outcomes, first_come_s: Floats | None) -> float:
    if first_come_s is None:
        return float("nan")
    return max(_largest(outcomes.dispatched_s - first_come_s), 0.0)


def _mean(values: Floats | Bools) -> float:
    return float(values.mean()) if values.size else float("nan")


def _quantiles(values: Floats, *levels: float) -> list[float]:
    if not values.size:
        return [float("nan")] * len(levels)
    return [float(each) for each in np.quantile(values, levels)]


def _largest(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else float("nan")


def _over(amount: float, by: float) -> float:
    return float(amount / by) if by else float("nan")


SCALARS: Final = tuple(
    field.name for field in msgspec.structs.fields(Measures) if field.type in {int, float}
)
