"""S1 in replay: measures every rung with every predictor, with a backlog and at several loads."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from benchmarks.harness.report import Row
from benchmarks.harness.text_requests import text_requests, with_published_predictions
from benchmarks.s1.ladder import (
    FIXED,
    LOADS,
    NO_PREDICTOR,
    OUR_PREDICTOR,
    PREDICTORS,
    PUBLISHED_PREDICTOR,
)
from benchmarks.s1.replay_cells import (
    MAIN,
    SATURATED,
    SETTINGS,
    Cell,
    Place,
    Setting,
    case,
    ladder_measures,
    limits,
    requests,
    rungs,
)
from benchmarks.s1.replay_plots import draw
from benchmarks.s1.replay_rows import ladder_rows, points, sweep_rows
from gateway.replay.comparison import Case, Contender, compare
from gateway.replay.workload.workload import Workload

SEEDS: Final = 3
REQUESTS: Final = 10_500
QUICK_REQUESTS: Final = 1_400
MAIN_LOADS: Final = (0.5, *LOADS, 2.0, 4.0, 8.0)
SWEPT_LOADS: Final = (SATURATED, 1.1)

Texts = Mapping[str, Workload]  # by predictor
Say = Callable[[str], None]


def run_replay(
    data: Path,
    say: Say,
    publish: Callable[[list[Row]], None],
    *,
    quick: bool,
    jobs: int,
    plots: Path,
) -> list[Row]:
    """Measure all cells; `publish` gets the rows measured so far."""
    texts = _texts(data, jobs, say)
    settings = SETTINGS[:1] if quick else SETTINGS
    count, seeds = (QUICK_REQUESTS, 1) if quick else (REQUESTS, SEEDS)
    cells: list[Cell] = []
    ladder = Ladder(texts, count, seeds)

    def run_cases(cases: list[Case[Place]]) -> None:
        for done in compare(cases, ladder_measures, jobs):
            cells.append(done)
            say(_line(done))
        publish(_rows(cells))

    run_cases(ladder.backlogs(settings))
    rates_s = _saturated_rates(cells)
    run_cases(ladder.arrivals(settings, rates_s))
    run_cases(ladder.sweep(rates_s))
    draw(points(cells), plots)
    return _rows(cells)


class Ladder:
    """The cases to replay: `count` requests with each of `seeds` seeds."""

    def __init__(self, texts: Texts, count: int, seeds: int) -> None:
        self._texts = texts
        self._count = count
        self._seeds = seeds

    def backlogs(self, settings: tuple[Setting, ...]) -> list[Case[Place]]:
        """All requests wait from the start."""
        return [each for setting in settings for each in self._at(setting, SATURATED, 1.0)]

    def arrivals(
        self, settings: tuple[Setting, ...], rates_s: Mapping[str, float]
    ) -> list[Case[Place]]:
        """Poisson arrivals; `rates_s` is `fixed`'s saturated rate in each setting."""
        return [
            each
            for setting in settings
            for load in (MAIN_LOADS if setting == MAIN else LOADS)
            for each in self._at(setting, load, load * rates_s[setting.name])
        ]

    def sweep(self, rates_s: Mapping[str, float]) -> list[Case[Place]]:
        """Magnus with other limits Φ, in the main setting with our predictor."""
        return [
            self._case(MAIN, load, (load or 1) * rates_s[MAIN.name], OUR_PREDICTOR, limits(), seed)
            for load in SWEPT_LOADS
            for seed in range(self._seeds)
        ]

    def _at(self, setting: Setting, load: float | None, rate_s: float) -> Iterator[Case[Place]]:
        for seed in range(self._seeds):
            for predictor in (NO_PREDICTOR, *PREDICTORS):
                contenders = rungs(setting, predictor)
                yield self._case(setting, load, rate_s, predictor, contenders, seed)

    def _case(
        self,
        setting: Setting,
        load: float | None,
        rate_s: float,
        predictor: str,
        contenders: list[Contender],
        seed: int,
    ) -> Case[Place]:
        return case(
            Place(setting.name, load, predictor),
            partial(requests, self._texts[predictor], setting, load, rate_s, self._count, seed),
            contenders,
            seed,
        )


def _texts(data: Path, threads: int, say: Say) -> Texts:
    """The texts with the lengths of each predictor; ours are as good as any for none and oracle."""
    ours = text_requests(data, threads, say)
    published = with_published_predictions(ours, data, threads, say)
    return dict.fromkeys((NO_PREDICTOR, *PREDICTORS), ours) | {PUBLISHED_PREDICTOR: published}


def _saturated_rates(cells: list[Cell]) -> dict[str, float]:
    """`fixed`'s requests a second with a backlog, by setting: the mean over the seeds."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        if cell.key.load is SATURATED and FIXED in cell.measured:
            found.setdefault(cell.key.setting, []).append(cell.measured[FIXED].requests_s)
    return {setting: fmean(rates) for setting, rates in found.items()}


def _rows(cells: list[Cell]) -> list[Row]:
    found = points(cells)
    return [*ladder_rows(found), *sweep_rows(found)]


def _line(done: Cell) -> str:
    place = done.key
    load = "backlog" if place.load is SATURATED else f"load {place.load:g}"
    shown = ", ".join(
        f"{name} {found.requests_s:.1f}/s {found.mean_s:.1f} s"
        for name, found in done.measured.items()
    )
    return f"{place.setting}, {load}, lengths by {place.predictor}, seed {done.seed}: {shown}"
