"""S5: deadlines in overload. Who refuses early what would be late anyway answers more in time."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.places import CACHE, PLOTS
from benchmarks.report import Report
from benchmarks.s5_cells import JUDGED, POOLS, REQUESTS, SEEDS, SIDES, Cell, Task, cell, judged_each
from benchmarks.s5_plots import draw
from benchmarks.s5_rows import rows_of, targets
from benchmarks.sides import Workers, pool_of
from benchmarks.text_requests import text_requests
from gateway.replay.costs import EngineModel
from gateway.replay.predictions import PredictorName
from gateway.replay.scenario import Scenario
from gateway.replay.typical import typical_lengths
from gateway.replay.workload import Workload

TEXTS: Final = "texts"
CHAT: Final = "chat"
QUICK_REQUESTS: Final = 2_000
QUICK_JUDGED: Final = 30


def run(data: Path, engine: EngineModel, *, quick: bool, only: str, jobs: int) -> None:
    """Replay every cell; the result is written as they come."""
    look = quick or bool(only)
    report = Report("S5", look=look)
    tasks = [each for each in _tasks(data, engine, quick, report) if _name(each).startswith(only)]
    cells: list[Cell] = []
    with Workers(jobs) as workers:
        for done in workers.each(cell, tasks):
            cells.append(done)
            report.say(_line(done))
            report.write(list(rows_of(cells)), list(targets(cells)))
    draw(cells, CACHE / "looks" if look else PLOTS)
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _tasks(data: Path, engine: EngineModel, quick: bool, report: Report) -> Iterator[Task]:
    """Texts with our model's predictions, and a chat service's lengths with noisy ones."""
    requests, judged = (QUICK_REQUESTS, QUICK_JUDGED) if quick else (REQUESTS, JUDGED)
    sources: dict[str, tuple[Workload, PredictorName]] = {
        CHAT: (typical_lengths(), "noise"),
        TEXTS: (text_requests(data, 1, report.say), "recorded"),
    }
    for (source, (whole, predictor)), (pool, size) in product(sources.items(), POOLS.items()):
        smallest = pool_of(min(POOLS.values()), engine, whole)
        fitting = whole.within(smallest.shape.most_tokens)
        for seed in range(SEEDS):
            yield Task(
                source=source,
                pool=pool,
                seed=seed,
                scenario=Scenario(
                    source=fitting, arrivals="poisson", drawn=requests, predictor=predictor
                ),
                engine=pool_of(size, engine, fitting),
                judged=judged_each(judged, SEEDS),
            )


def _name(task: Task) -> str:
    return f"{task.source}/{task.pool}"


def _line(done: Cell) -> str:
    told = ", ".join(f"{name} {done.measures[name].in_time:.1%}" for name in SIDES)
    return (
        f"{done.source}/{done.pool}, seed {done.seed}: in time {told}; "
        f"refused {done.refused}, {done.wrong} and {done.wrong_in_order} of {done.judged} wrongly"
    )
