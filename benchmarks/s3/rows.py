"""The rows of S3, and what it is held to."""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

from benchmarks.harness.contenders import grouped, ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.s3.cells import FIXED, MAXIMUM, MOST_PREEMPTED, ORACLE, PEAK, SELDOM, VARIED, Cell
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval

IN_FLIGHT: Final = 6.0
THROUGHPUT: Final = 0.92
KV_USE: Final = 0.85
SETTINGS: Final = {PEAK: "", SELDOM: f", told {MOST_PREEMPTED:.1%}"}


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each kind of lengths, model and side: means over the seeds."""
    for (lengths, model), group in grouped(cells).items():
        for side in group[0].measured:
            in_flight, tokens = (measured(group, side, n) for n in ("in_flight", "tokens_s"))
            over = over_oracle(group, side)
            yield {
                "lengths": lengths,
                "model": model,
                "reserved": side,
                "in flight": in_flight.mean,
                "/maximum's": over_maximum(group, side).mean,
                "tokens/s": tokens.mean,
                "± 95 %": tokens.half_width,
                "/oracle's": over.mean,
                "low": over.low,
                "high": over.high,
                "KV use": measured(group, side, "kv_use").mean,
                "preempted": measured(group, side, "preempted").mean,
                "recomputed": measured(group, side, "recomputed").mean,
                "unanswered": sum(each.measured[side].unanswered for each in group),
            }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """The verdicts on our default, and told to preempt seldom, on whichever model it does worst."""
    found = grouped(cells)
    for name, (side, told) in product((FIXED.name, VARIED.name), SETTINGS.items()):
        groups = [group for (lengths, _), group in found.items() if lengths == name]
        for each in _targets(groups, side, in_flight=name == FIXED.name):
            yield Target(f"{name}{told}: {each.name}", each.value, each.target, each.met)


def measured(group: Iterable[Cell], side: str, name: str) -> ConfidenceInterval:
    """A measure of a side over the seeds."""
    return confidence_interval([float(getattr(each.measured[side], name)) for each in group])


def over_maximum(group: Iterable[Cell], side: str) -> ConfidenceInterval:
    """Sequences in flight over those where the maximum is reserved."""
    return ratio([e.measured[side].in_flight / e.measured[MAXIMUM].in_flight for e in group])


def over_oracle(group: Iterable[Cell], side: str) -> ConfidenceInterval:
    """Tokens a second over those of the oracle."""
    return ratio([e.measured[side].tokens_s / e.measured[ORACLE].tokens_s for e in group])


def _targets(groups: list[list[Cell]], side: str, *, in_flight: bool) -> Iterator[Target]:
    mine = [each.measured[side] for group in groups for each in group]
    if in_flight:
        least = min((over_maximum(group, side).mean for group in groups), default=None)
        yield target("in flight over the maximum's", least, IN_FLIGHT)
    least = min((over_oracle(group, side).mean for group in groups), default=None)
    yield target("tokens/s over the oracle's", least, THROUGHPUT)
    uses = [measured(group, side, "kv_use").mean for group in groups]
    yield target("KV use", min(uses, default=None), KV_USE)
    shares = [measured(group, side, "preempted").mean for group in groups]
    yield target("preempted", max(shares, default=None), MOST_PREEMPTED, "at most")
    failed = sum(each.unanswered for each in mine) if mine else None
    yield target("out of memory", failed, 0, "at most")
