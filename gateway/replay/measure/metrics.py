"""Measures of a replay: response times, throughput, memory use, deadlines."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from gateway.quantiles import Bools, Floats
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.workload import Workload

DECILES: Final = 10


class Measures(Struct, frozen=True, kw_only=True):
    """Measures of a run, in seconds, tokens or fractions. NaN where nothing was measured.

    Response time, time to first token (TTFT) and wait before dispatch are measured from the
    arrival, over the answered requests. `deciles_s` is the mean response time by decile of true
    length, shortest first; `served` is each tenant's fraction of the generated tokens, `tenants_s`
    its mean response time. `batch_size` is the mean number of requests dispatched together.
    `kv_use` is the mean over the time in which the engine ran steps. `goodput_s` is the rate of
    requests answered before their deadline, from the first arrival to the last answer.
    `extra_delay_s` is the maximum over requests of the dispatch time minus that under `fcfs`, on
    the same workload. `splits` is the number of lock-step batches that ran out of memory.
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
    batch_size: float
    splits: float
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
    workload: Workload, results: ReplayResults, pages: int, fcfs_dispatched_s: Floats | None = None
) -> Measures:
    """The measures of a run on engines with `pages` KV pages together.

    `fcfs_dispatched_s` (n,) is the dispatch time of each request under `fcfs`.
    """
    answered = ~np.isnan(results.finished_s)
    response_s = (results.finished_s - workload.arrived_s)[answered]
    ttft_s = (results.first_token_s - workload.arrived_s)[answered]
    wait_s = (results.dispatched_s - workload.arrived_s)[answered]
    tokens = workload.generation_tokens[answered]
    makespan_s = _largest(results.finished_s) - float(workload.arrived_s[0])
    p50_s, p90_s, p99_s = _quantiles(response_s, 0.5, 0.9, 0.99)
    due = ~np.isnan(workload.deadline_s)
    in_time = due & (results.finished_s - workload.arrived_s <= workload.deadline_s)
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
        requests_s=_ratio(len(response_s), makespan_s),
        tokens_s=_ratio(float(tokens.sum()), makespan_s),
        kv_use=_ratio(results.page_seconds, pages * results.busy_s),
        preempted=_mean(results.preemptions > 0),
        recomputed=_ratio(results.recomputed_tokens, results.computed_tokens),
        batch_size=_mean_batch_size(results),
        splits=results.splits,
        overdue=_mean(results.overdue),
        in_time=_mean(in_time[due]),
        goodput_s=_ratio(float(in_time.sum()), makespan_s) if due.any() else float("nan"),
        gave_up=_mean(results.gave_up),
        extra_delay_s=_extra_delay_s(results, fcfs_dispatched_s),
        decision_us=_ratio(1e6 * results.decision_s, results.decisions),
        order_changes=results.order_changes,
        deciles_s=deciles(tokens, response_s),
        served=served(workload, answered),
        tenants_s=_tenants_s(workload, answered, response_s),
    )


def deciles(tokens: npt.NDArray[np.int32], response_s: Floats) -> tuple[float, ...]:
    """Mean response time by decile of length; equal lengths in order of arrival."""
    by_length = response_s[np.argsort(tokens, kind="stable")]
    return tuple(_mean(part) for part in np.array_split(by_length, DECILES))


def served(workload: Workload, answered: Bools) -> dict[str, float]:
    """Each tenant's fraction of the generated tokens, by name."""
    tokens = _by_tenant(workload, answered, workload.generation_tokens[answered])
    return {
        name: _ratio(tokens[index], tokens.sum()) for index, name in enumerate(workload.tenants)
    }


def _tenants_s(workload: Workload, answered: Bools, response_s: Floats) -> dict[str, float]:
    sums_s = _by_tenant(workload, answered, response_s)
    counts = _by_tenant(workload, answered, np.ones(len(response_s)))
    return {
        name: _ratio(sums_s[index], counts[index]) for index, name in enumerate(workload.tenants)
    }


def _by_tenant(workload: Workload, answered: Bools, amounts: npt.NDArray[Any]) -> Floats:
    """The sum of `amounts`, one for each answered request, by tenant index."""
    tenant = workload.tenant[answered]
    weights = np.asarray(amounts, np.float64)
    sums: Floats = np.bincount(tenant, weights, len(workload.tenants)).astype(np.float64)
    return sums


def _extra_delay_s(results: ReplayResults, fcfs_dispatched_s: Floats | None) -> float:
    if fcfs_dispatched_s is None:
        return float("nan")
    return max(_largest(results.dispatched_s - fcfs_dispatched_s), 0.0)


def _mean_batch_size(results: ReplayResults) -> float:
    """The mean over batches: each of a batch's requests counts for its part of the batch."""
    sizes = results.batch_size[results.batch_size > 0].astype(np.float64)
    return _ratio(sizes.size, float((1 / sizes).sum()))


def _mean(values: Floats | Bools) -> float:
    return float(values.mean()) if values.size else float("nan")


def _quantiles(values: Floats, *levels: float) -> list[float]:
    if not values.size:
        return [float("nan")] * len(levels)
    return [float(each) for each in np.quantile(values, levels)]


def _largest(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else float("nan")


def _ratio(amount: float, divisor: float) -> float:
    return float(amount / divisor) if divisor else float("nan")


SCALARS: Final = tuple(
    field.name for field in msgspec.structs.fields(Measures) if field.type in {int, float}
)
