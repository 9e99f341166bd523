"""The rows and targets of S3 live."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from benchmarks.harness.report import Row, Target, target
from benchmarks.harness.retry import Measured
from benchmarks.s3.live_cells import DEFAULT, HONEST, MAXIMUM, ORACLE, PREDICTED, LivePass

MIN_IN_MEMORY: Final = 6.0
MIN_THROUGHPUT: Final = 0.92
MIN_KV_USE: Final = 0.85
ALL: Final = tuple(each.name for each in HONEST) + tuple(PREDICTED)
COUNTED: Final = ("extensions", "preemptions", "swaps")

LivePasses = Mapping[str, Measured[LivePass]]


def rows_of(passes: LivePasses) -> list[Row]:
    """A row for each contender's memory and speed, then one for its counts."""
    return [*_speed_rows(passes), *_count_rows(passes)]


def _speed_rows(passes: LivePasses) -> Iterator[Row]:
    for name, measured in passes.items():
        found = measured.outcome
        yield {
            "contender": name,
            "policy": found.contender.policy,
            "lengths": found.contender.lengths,
            "in memory": found.in_memory,
            "/maximum's": _over(passes, found.in_memory, MAXIMUM.name, "in_memory"),
            "tokens/s": found.tokens_s,
            "/oracle's": _over(passes, found.tokens_s, ORACLE.name, "tokens_s"),
            "/with own lengths": _over(passes, found.tokens_s, PREDICTED.get(name), "tokens_s"),
            "KV use": found.kv_use,
            "mean end s": found.mean_end_s,
            "foreign": measured.load.foreign,
        }


def _count_rows(passes: LivePasses) -> Iterator[Row]:
    reference = passes[MAXIMUM.name].outcome.answers if MAXIMUM.name in passes else []
    texts = [answer.text for answer in reference]
    for name, measured in passes.items():
        found = measured.outcome
        yield {
            "contender": name,
            "requests": len(found.answers),
            "predicted/true": found.median_over_true,
            "P90 covers": found.covered,
            **{each: round(found.counts[each]) for each in COUNTED},
            "recomputed tokens": found.recomputed,
            "computed tokens": round(found.counts["computed_tokens"]),
            "out of memory": found.out_of_memory,
            "lost": found.lost,
            "changed": found.changed(texts),
        }


def targets(rows: Iterable[Row], contenders: Iterable[str] = ALL) -> Iterator[Target]:
    """No answer is lost or changed; predictions fill the memory nearly as true lengths do."""
    speeds: dict[str, Row] = {}
    counts: dict[str, Row] = {}
    for row in rows:
        (counts if "lost" in row else speeds)[row["contender"]] = row
    ours = speeds.get(DEFAULT.name, {})
    for words, field, bound in (
        ("in memory over the maximum's", "/maximum's", MIN_IN_MEMORY),
        ("tokens/s over the oracle's", "/oracle's", MIN_THROUGHPUT),
        ("KV use", "KV use", MIN_KV_USE),
    ):
        yield target(f"{DEFAULT.name}: {words}", ours.get(field), bound)
    for field, words in (
        ("out of memory", "out of memory"),
        ("lost", "lost answers"),
        ("changed", "changed texts"),
    ):
        found = [row[field] for row in counts.values()]
        complete = set(contenders) <= counts.keys()
        yield target(f"{words}, all contenders", sum(found) if complete else None, 0, "at most")


def _over(passes: LivePasses, value: float, other: str | None, measure: str) -> float | None:
    """A measure over another contender's; None before that one was measured."""
    if other is None or other not in passes:
        return None
    return value / float(getattr(passes[other].outcome, measure))
