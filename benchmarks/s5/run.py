"""S5: deadlines in overload. Refusing early what would be late leaves time for the others."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.harness.contenders import OURS, POOLS, SEEDS, fitting_smallest_pool, pool_of
from benchmarks.harness.report import Report
from benchmarks.harness.text_requests import of_one_app, text_requests
from benchmarks.s5.cells import (
    CONTENDERS,
    JUDGED_REFUSALS,
    REQUESTS,
    Cell,
    SourceAndPool,
    case,
    deadline_measures,
    judged_per_seed,
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
    """Replay all cells; the result is written after each one."""
    look = quick or bool(only)
    report = Report("S5", look=look)
    requests, judged = (QUICK_REQUESTS, QUICK_JUDGED) if quick else (REQUESTS, JUDGED_REFUSALS)
    all_cases = _cases(of_one_app(text_requests(data, 1, report.say)), engine, requests)
    cases = [each for each in all_cases if "/".join(each.key).startswith(only)]
    cells: list[Cell] = []
    for done in compare(
        cases, partial(deadline_measures, max_judged=judged_per_seed(judged, SEEDS)), jobs
    ):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    draw(cells, report.plots)
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _cases(texts: Workload, engine: EngineModel, requests: int) -> Iterator[Case[SourceAndPool]]:
    """Cases with synthetic chat lengths and noisy predictions, and with texts as P1 predicts."""
    sources: dict[str, tuple[Workload, PredictorName]] = {
        CHAT: (synthetic_lengths(), "noise"),
        TEXTS: (texts, "recorded"),
    }
    for (source, (whole, predictor)), (pool, size) in product(sources.items(), POOLS.items()):
        fitting = fitting_smallest_pool(whole, engine)
        scenario = Scenario(
            source=fitting, arrivals="poisson", sample_size=requests, predictor=predictor
        )
        for seed in range(SEEDS):
            yield case((source, pool), scenario, pool_of(size, engine, fitting), seed)


def _line(done: Cell) -> str:
    found, ours = done.measured, done.measured[OURS]
    shown = ", ".join(f"{name} {found[name].measures.in_time:.1%}" for name in CONTENDERS)
    return (
        f"{'/'.join(done.key)}, seed {done.seed}: in time {shown}; "
        f"refused {ours.refused}, {ours.wrong} and {ours.wrong_in_order} of {ours.judged} wrongly"
    )
