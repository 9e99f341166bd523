"""Several engines, each behind a gateway of its own, fed in turn by a load balancer."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.outcomes import Outcomes
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Policy

Values: TypeAlias = npt.NDArray[Any]

COLUMNS: Final = (
    "dispatched_s",
    "first_token_s",
    "finished_s",
    "preemptions",
    "overdue",
    "gave_up",
)
SERIES: Final = ("waiting", "running", "kv_pages")
TOTALS: Final = (
    "steps",
    "computed_tokens",
    "recomputed_tokens",
    "busy_s",
    "page_seconds",
    "order_changes",
    "decisions",
    "decision_s",
)


def replay_on(
    engines: int, workload: Workload, policy: Callable[[], Policy], engine: EngineModel
) -> Outcomes:
    """The outcomes on so many alike engines: request i goes to engine i mod `engines`.

    Each has a queue under a policy of its own.
    """
    if engines == 1:
        return replay(workload, policy(), engine)
    parts = [
        replay(workload.take(slice(first, None, engines)), policy(), engine)
        for first in range(min(engines, len(workload)))
    ]
    return together(parts)


def together(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of nodes fed in turn as those of one; totals and series are sums."""
    times = np.unique(np.concatenate([part.time_s for part in parts]))
    times = times[:: -(-len(times) // len(parts[0].time_s))]
    whole: dict[str, Any] = {"time_s": times}
    for name in COLUMNS:
        whole[name] = _in_turn([getattr(part, name) for part in parts])
    for name in SERIES:
        known = [_at(times, part.time_s, getattr(part, name)) for part in parts]
        whole[name] = np.sum(known, axis=0)
    for name in TOTALS:
        whole[name] = sum(getattr(part, name) for part in parts)
    return Outcomes(**whole)


def _in_turn(parts: Sequence[Values]) -> Values:
    """Columns dealt out in turn, put back in order."""
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole


def _at(times_s: Floats, known_s: Floats, values: Values) -> Floats:
    """A series at other times: the last value known by then, 0 before the first."""
    places = np.searchsorted(known_s, times_s, side="right")
    before: Floats = np.concatenate([[0.0], values])[places]
    return before
