"""The targets of S1, computed from its rows, so that a run of one part keeps those of the other."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.harness.report import Row, Target, target
from benchmarks.s1.ladder import LIVE, LOADS, MAGNUS, OUR_PREDICTOR, OURS, REPLAY
from benchmarks.s1.live_targets import live_targets

MIN_GAIN: Final = 1.66  # the paper's ranges: request throughput + 66 … + 234 %
MAX_GAIN: Final = 3.34
MIN_REDUCTION: Final = 0.4  # mean response - 60 … - 89.7 %
MAX_REDUCTION: Final = 0.103
SETTING: Final = "paper's apps"


def targets(rows: Sequence[Row]) -> list[Target]:
    """All targets whose part has been run."""
    replayed, live = ([row for row in rows if row["part"] == part] for part in (REPLAY, LIVE))
    return [*_replay_targets(replayed), *live_targets(live)]


def _replay_targets(rows: Sequence[Row]) -> Iterator[Target]:
    """The paper's ranges, for its own scheduler and for ours, with our predictor."""
    if not rows:
        return
    for rung in (MAGNUS, OURS):
        gain = _over_fixed(rows, rung, None)
        name = f"replay, {rung}: requests/s over fixed"
        yield target(f"{name}, the paper's least", gain, MIN_GAIN)
        yield target(f"{name}, the paper's most", gain, MAX_GAIN)
        for load in LOADS:
            response = _over_fixed(rows, rung, load)
            name = f"replay, {rung}: mean response over fixed's at load {load:g}"
            yield target(f"{name}, the paper's least", response, MIN_REDUCTION, "at most")
            if load == LOADS[-1]:
                yield target(f"{name}, the paper's most", response, MAX_REDUCTION, "at most")


def _over_fixed(rows: Sequence[Row], rung: str, load: float | None) -> float | None:
    """A rung over `fixed` in the main setting; None if it was not measured."""
    wanted = {"setting": SETTING, "rung": rung, "predictor": OUR_PREDICTOR}
    for row in rows:
        if row.get("load") == load and all(row.get(key) == value for key, value in wanted.items()):
            return float(row["/fixed"])
    return None
