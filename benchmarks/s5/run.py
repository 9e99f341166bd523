"""S5: deadlines in overload. Who refuses early what would be late anyway answers more in time."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.harness.contenders import OURS, POOLS, SEEDS, fitting, pool_of
from benchmarks.harness.paths import CACHE, PLOTS
from benchmarks.harness.report import Report
from benchmarks.harness.text_requests import text_requests
from benchmarks.s5.cells import (
    JUDGED,
    REQUESTS,
    SIDES,
    Cell,
    Place,
    case,
    judged_each,
    served,
)
from benchmarks.s5.plots import draw
from benchmarks.s5.rows import rows_of, targets
from gateway.replay.comparison import Case, compare
from gateway.replay.cost.model import EngineModel
from gateway.replay.workload.predictions import PredictorName
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.replay.workload.workload import Workload

TEXTS: Final = "texts"
CHAT: Final = "chat"
QUICK_REQUESTS: Final = 2_000
QUICK_JUDGED: Final = 30


def run(data: Path, engine: EngineModel, *, quick: bool, only: str, jobs: int) -> None:
    """Replay every cell; the result is written as they come."""
    look = quick or bool(only)
    report = Report("S5", look=look)
    requests, judged = (QUICK_REQUESTS, QUICK_JUDGED) if quick else (REQUESTS, JUDGED)
    every = _cases(text_requests(data, 1, report.say), engine, requests)
    cases = [each for each in every if "/".join(each.key).startswith(only)]
    cells: list[Cell] = []
    for done in compare(cases, partial(served, most_judged=judged_each(judged, SEEDS)), jobs):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    draw(cells, CACHE / "looks" if look else PLOTS)
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _cases(texts: Workload, engine: EngineModel, requests: int) -> Iterator[Case[Place]]:
    """A chat service's lengths with noisy predictions, and texts with our model's own."""
    sources: dict[str, tuple[Workload, PredictorName]] = {
        CHAT: (synthetic_lengths(), "noise"),
        TEXTS: (texts, "recorded"),
    }
    for (source, (whole, predictor)), (pool, size) in product(sources.items(), POOLS.items()):
        some = fitting(whole, engine)
        scenario = Scenario(
            source=some, arrivals="poisson", sample_size=requests, predictor=predictor
        )
        for seed in range(SEEDS):
            yield case((source, pool), scenario, pool_of(size, engine, some), seed)


def _line(done: Cell) -> str:
    found, ours = done.measured, done.measured[OURS]
    shown = ", ".join(f"{name} {found[name].measures.in_time:.1%}" for name in SIDES)
    return (
        f"{'/'.join(done.key)}, seed {done.seed}: in time {shown}; "
        f"refused {ours.refused}, {ours.wrong} and {ours.wrong_in_order} of {ours.judged} wrongly"
    )
