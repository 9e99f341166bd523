"""Time-weighted memory use of the engine, from the events of a run."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from benchmarks.engine.client import RunTrace
from engine.protocol import Step


class Occupancy(NamedTuple):
    """Means over time: sequences with KV memory, and the share of the pool in use."""

    in_flight: float
    kv_use: float
    kv_use_queued: float | None  # while requests wait; None if none ever waits


def occupancy(trace: RunTrace) -> Occupancy:
    """Compute from the events; each state holds until the next event."""
    spans = list(_spans(trace))
    queued = [(elapsed_s, step, in_flight) for elapsed_s, step, in_flight in spans if step.waiting]
    return Occupancy(
        in_flight=_mean(spans, lambda _, in_flight: in_flight),
        kv_use=_mean(spans, lambda step, _: _use(step)),
        kv_use_queued=_mean(queued, lambda step, _: _use(step)) if queued else None,
    )


Span = tuple[float, Step, int]


def _spans(trace: RunTrace) -> Iterator[Span]:
    """Seconds until the next event, the step, and the number of sequences with memory.

    `running` includes preempted sequences, which resume with their next token.
    """
    away: set[str] = set()
    for timed_step, following in pairwise(trace.timed_steps):
        step = timed_step.step
        away = (away | set(step.preempted)) - step.tokens.keys()
        away -= {finish.id for finish in step.finished}
        yield following.at_s - timed_step.at_s, step, step.running - len(away)


def _use(step: Step) -> float:
    return 1 - step.kv.free / step.kv.pages


def _mean(spans: list[Span], value: Callable[[Step, int], float]) -> float:
    total = sum(elapsed_s for elapsed_s, _, _ in spans)
    return sum(elapsed_s * value(step, in_flight) for elapsed_s, step, in_flight in spans) / total
