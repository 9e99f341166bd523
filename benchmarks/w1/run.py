"""W1: the wait that is reported to a client; in replay and live."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, median
from typing import Final

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.w1.judgement import NAIVE, OURS, Judgement
from benchmarks.w1.live_run import (
    LiveWaits,
    Retries,
    measured_retries,
    measured_waits,
    saturated_rate_s,
)
from benchmarks.w1.replay_cells import Cell, cells
from gateway.replay.cost.model import EngineModel

FIGURE: Final = "W1"
PARTS: Final = ("replay", "live")
LEAST_INSIDE: Final = 0.75
MOST_INSIDE: Final = 0.85
MOST_WIDTH: Final = 0.5
MOST_ERROR: Final = 0.7
LEAST_RETRIES: Final = 0.9
MOST_UNEXPLAINED: Final = 0.01


def run(engine: EngineModel, parts: Sequence[str], *, quick: bool, jobs: int) -> None:
    """Measure these parts; the result is written after each."""
    report = Report(FIGURE, look=quick)
    others = [part for part in PARTS if part not in parts]
    rows, targets = report.committed(others)
    if "replay" in parts:
        found: list[Cell] = []
        for cell in cells(engine, quick=quick, jobs=jobs):
            found.append(cell)
            report.say(_line(f"{cell.pool}, load {cell.load}, seed {cell.seed}", cell.judged))
        rows += list(replay_rows(found))
        targets += list(_targets("replay", [each.judged for each in found]))
        report.write(rows, targets)
    if "live" in parts:
        rate_s = saturated_rate_s(FIGURE)
        report.say(f"saturated: {rate_s:.2f} requests/s")
        waits = measured_waits(FIGURE, rate_s, quick=quick)
        report.say(_line("live", waits.judged))
        retries = measured_retries(FIGURE, rate_s, quick=quick)
        report.say(f"{retries.accepted} of {retries.refused} retries were accepted")
        rows += list(live_rows(waits, retries))
        targets += [*_targets("live", [waits.judged]), *live_targets(waits, retries)]
    report.conclude(rows, targets)


def replay_rows(found: Iterable[Cell]) -> Iterator[Row]:
    """A row for each replay and estimate."""
    for cell in found:
        for name, each in cell.judged.items():
            where = {"pool": cell.pool, "load": cell.load, "seed": cell.seed}
            yield {"part": "replay", **where, **_columns(name, each)}


def live_rows(waits: LiveWaits, retries: Retries) -> Iterator[Row]:
    """A row for each estimate, and one for the retries."""
    for name, each in waits.judged.items():
        yield {"part": "live", **_columns(name, each)}
    yield {
        "part": "live",
        "refused": retries.refused,
        "accepted when they came again": retries.accepted,
        "unexplained time, worst": waits.unexplained,
    }


def live_targets(waits: LiveWaits, retries: Retries) -> Iterator[Target]:
    """Retries, and explained times."""
    yield target("live: retries that come in time and succeed", retries.share, LEAST_RETRIES)
    yield target(
        "live: time that no explanation covers, worst",
        waits.unexplained,
        MOST_UNEXPLAINED,
        "at most",
    )


def _targets(part: str, judged: Sequence[dict[str, Judgement]]) -> Iterator[Target]:
    """Coverage, and the ratios of widths and errors; medians over the runs."""
    inside = mean(each[OURS].inside for each in judged) if judged else None
    yield target(f"{part}: waits inside [P10, P90]", inside, LEAST_INSIDE)
    yield target(f"{part}: waits inside [P10, P90]", inside, MOST_INSIDE, "at most")
    for name in NAIVE:
        widths = [each[OURS].width_s / each[name].width_s for each in judged]
        errors = [each[OURS].error_s / each[name].error_s for each in judged]
        width, error = (median(each) if each else None for each in (widths, errors))
        yield target(f"{part}: width of the band over that by {name}", width, MOST_WIDTH, "at most")
        yield target(f"{part}: error over that by {name}", error, MOST_ERROR, "at most")


def _columns(name: str, judged: Judgement) -> Row:
    return {
        "estimate": name,
        "waits": judged.waits,
        "inside": judged.inside,
        "width s": judged.width_s,
        "width s, 80% inside": judged.even_width_s,
        "error s": judged.error_s,
    }


def _line(where: str, judged: dict[str, Judgement]) -> str:
    shown = ", ".join(
        f"{name}: {each.inside:.0%} inside, width {each.width_s:.1f} s, error {each.error_s:.2f} s"
        for name, each in judged.items()
    )
    return f"{where}: {shown}"
