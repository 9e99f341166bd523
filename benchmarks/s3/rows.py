"""The rows and targets of S3."""

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.harness.contenders import group_by_key, mean_ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.s3.cells import (
    FIXED,
    MAXIMUM,
    ORACLE,
    PEAK,
    VARIED,
    Cell,
)
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval

MIN_IN_FLIGHT: Final = 6.0
MIN_THROUGHPUT: Final = 0.92
MIN_KV_USE: Final = 0.85
MAX_LOST: Final = 0.005


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each kind of lengths, model and contender: means over the seeds."""
    for (lengths, model), group in group_by_key(cells).items():
        for contender in group[0].measured:
            in_flight, tokens = (measured(group, contender, n) for n in ("in_flight", "tokens_s"))
            over = over_oracle(group, contender)
            yield {
                "lengths": lengths,
                "model": model,
                "reserved": contender,
                "in flight": in_flight.mean,
                "/maximum's": over_maximum(group, contender).mean,
                "tokens/s": tokens.mean,
                "± 95 %": tokens.half_width,
                "/oracle's": over.mean,
                "low": over.low,
                "high": over.high,
                "KV use": measured(group, contender, "kv_use").mean,
                "preempted": measured(group, contender, "preempted").mean,
                "recomputed": measured(group, contender, "recomputed").mean,
                "lost": measured(group, contender, "lost").mean,
                "unanswered": sum(each.measured[contender].unanswered for each in group),
            }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """The targets of our default; the worst model counts."""
    found = group_by_key(cells)
    for name in (FIXED.name, VARIED.name):
        groups = [group for (lengths, _), group in found.items() if lengths == name]
        for each in _targets(groups, PEAK, in_flight=name == FIXED.name):
            yield Target(f"{name}: {each.name}", each.value, each.target, each.met)


def measured(group: Iterable[Cell], contender: str, name: str) -> ConfidenceInterval:
    """A measure of a contender over the seeds."""
    return confidence_interval([float(getattr(each.measured[contender], name)) for each in group])


def over_maximum(group: Iterable[Cell], contender: str) -> ConfidenceInterval:
    """Sequences in flight, relative to reserving the maximum."""
    return mean_ratio(
        [e.measured[contender].in_flight / e.measured[MAXIMUM].in_flight for e in group]
    )


def over_oracle(group: Iterable[Cell], contender: str) -> ConfidenceInterval:
    """Tokens a second, relative to the oracle."""
    return mean_ratio([e.measured[contender].tokens_s / e.measured[ORACLE].tokens_s for e in group])


def _targets(groups: list[list[Cell]], contender: str, *, in_flight: bool) -> Iterator[Target]:
    measures = [each.measured[contender] for group in groups for each in group]
    if in_flight:
        smallest = min((over_maximum(group, contender).mean for group in groups), default=None)
        yield target("in flight over the maximum's", smallest, MIN_IN_FLIGHT)
    smallest = min((over_oracle(group, contender).mean for group in groups), default=None)
    yield target("tokens/s over the oracle's", smallest, MIN_THROUGHPUT)
    uses = [measured(group, contender, "kv_use").mean for group in groups]
    yield target("KV use", min(uses, default=None), MIN_KV_USE)
    shares = [measured(group, contender, "lost").mean for group in groups]
    yield target("time lost to preemption", max(shares, default=None), MAX_LOST, "at most")
    failed = sum(each.unanswered for each in measures) if measures else None
    yield target("out of memory", failed, 0, "at most")
