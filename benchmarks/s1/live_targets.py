"""The targets of S1 live, computed from its rows."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.harness.report import Row, Target, target
from benchmarks.s1.ladder import FIXED, MAGNUS, OURS

MIN_GAIN: Final = 1.3
MAX_RESPONSE: Final = {1.1: 0.4, 0.9: 0.8}  # relative to `fixed`, by load
MODELS: Final = ("lmaas-demo", "smollm2")


def live_targets(rows: Sequence[Row]) -> Iterator[Target]:
    """The targets of both models, for Magnus and for ours; `rows` are those of the live part.

    A rung whose mean batch is below that of `fixed` does not count.
    """
    for model in MODELS if rows else ():
        own = [row for row in rows if row.get("model") == model]
        for rung in (MAGNUS, OURS):
            gain = _gain(own, rung)
            name = f"live, {model}, {rung}"
            yield target(f"{name}: valid tokens per modelled second over fixed", gain, MIN_GAIN)
            for load, bound in MAX_RESPONSE.items():
                response = _cell(own, "/fixed", rung=rung, load=load)
                words = f"{name}: mean response over fixed's at load {load:g}"
                yield target(words, response, bound, "at most")


def _gain(rows: Sequence[Row], rung: str) -> float | None:
    batch, fixed = (_cell(rows, "batch", rung=each, load=None) for each in (rung, FIXED))
    if batch is None or fixed is None or batch < fixed:
        return None
    return _cell(rows, "/fixed", rung=rung, load=None)


def _cell(rows: Sequence[Row], name: str, **wanted: Any) -> float | None:
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()):
            return float(row[name])
    return None
