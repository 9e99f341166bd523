"""Time series of a run: requests waiting and running, memory in use, tokens by tenant."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.quantiles import Floats
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.workload import Workload

BUCKETS: Final = 40  # of a run, in which tokens are counted
MAX_TENANTS: Final = 8
OTHERS: Final = "others"


@dataclass(frozen=True, kw_only=True)
class TimeSeries:
    """Series (m,) at `time_s`: requests waiting and running, KV pages in use as a share of all.

    `served` has, for each tenant, the tokens a second of answers that ended in each bucket, whose
    bounds are `edges_s` (BUCKETS + 1,); the smallest tenants are summed as one.
    """

    time_s: Floats
    waiting: Floats
    running: Floats
    kv_use: Floats
    edges_s: Floats
    served: dict[str, Floats]


def time_series(workload: Workload, results: ReplayResults, pages: int) -> TimeSeries:
    """The time series of a run on engines with `pages` KV pages together."""
    answered = ~np.isnan(results.finished_s)
    ends_s = results.finished_s[answered]
    edges_s = np.linspace(
        float(workload.arrived_s[0]), float(ends_s.max(initial=1e-9)), BUCKETS + 1
    )
    index = np.minimum(np.searchsorted(edges_s, ends_s, side="right") - 1, BUCKETS - 1)
    flat = workload.tenant[answered].astype(np.int64) * BUCKETS + index
    tokens = np.bincount(
        flat,
        weights=workload.generation_tokens[answered],
        minlength=BUCKETS * len(workload.tenants),
    )
    table = tokens.reshape(len(workload.tenants), BUCKETS) / (edges_s[1] - edges_s[0])
    return TimeSeries(
        time_s=results.time_s,
        waiting=results.waiting,
        running=results.running,
        kv_use=results.kv_pages / pages,
        edges_s=edges_s,
        served=_largest(workload.tenants, table),
    )


def _largest(names: list[str], table: Floats) -> dict[str, Floats]:
    """Rows by name, largest sum first; those after `MAX_TENANTS - 1` are summed as one."""
    order = np.argsort(-table.sum(axis=1), kind="stable")
    kept = order if len(order) <= MAX_TENANTS else order[: MAX_TENANTS - 1]
    found = {names[index]: table[index] for index in kept}
    if len(kept) < len(order):
        found[OTHERS] = table[order[len(kept) :]].sum(axis=0)
    return found
