"""How a run went over time: what waited, ran, and held memory, and who was served."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.quantiles import Floats
from gateway.replay.measure.outcomes import Outcomes
from gateway.replay.workload.workload import Workload

PARTS: Final = 40  # stretches of a run that tokens are counted in
MOST_TENANTS: Final = 8
OTHERS: Final = "others"


@dataclass(frozen=True, kw_only=True)
class Course:
    """Series (m,) at `time_s`: requests waiting and running, KV pages in use as a share of all.

    `served` has for each tenant the tokens a second of the answers that ended in each stretch
    between `edges_s` (PARTS + 1,); those of the smallest tenants are one.
    """

    time_s: Floats
    waiting: Floats
    running: Floats
    kv_use: Floats
    edges_s: Floats
    served: dict[str, Floats]


def course(workload: Workload, outcomes: Outcomes, pages: int) -> Course:
    """The course of a run on engines of so many KV pages together."""
    answered = ~np.isnan(outcomes.finished_s)
    ends_s = outcomes.finished_s[answered]
    edges_s = np.linspace(float(workload.arrived_s[0]), float(ends_s.max(initial=1e-9)), PARTS + 1)
    place = np.minimum(np.searchsorted(edges_s, ends_s, side="right") - 1, PARTS - 1)
    flat = workload.tenant[answered].astype(np.int64) * PARTS + place
    tokens = np.bincount(
        flat,
        weights=workload.generation_tokens[answered],
        minlength=PARTS * len(workload.tenants),
    )
    table = tokens.reshape(len(workload.tenants), PARTS) / (edges_s[1] - edges_s[0])
    return Course(
        time_s=outcomes.time_s,
        waiting=outcomes.waiting,
        running=outcomes.running,
        kv_use=outcomes.kv_pages / pages,
        edges_s=edges_s,
        served=_largest(workload.tenants, table),
    )


def _largest(names: list[str], table: Floats) -> dict[str, Floats]:
    """Rows by name, largest sum first; beyond MOST_TENANTS they are added up."""
    order = np.argsort(-table.sum(axis=1), kind="stable")
    kept = order if len(order) <= MOST_TENANTS else order[: MOST_TENANTS - 1]
    found = {names[place]: table[place] for place in kept}
    if len(kept) < len(order):
        found[OTHERS] = table[order[len(kept) :]].sum(axis=0)
    return found
