"""S1's requests, engines, points, rows, plots and targets in replay."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.report import Row, rows_table
from benchmarks.s1.ladder import (
    FIXED,
    LIVE,
    MAGNUS,
    NO_PREDICTOR,
    ORACLE_PREDICTOR,
    OUR_PREDICTOR,
    PREDICTORS,
    REPLAY,
    RUNGS,
    UNPREDICTED,
)
from benchmarks.s1.replay_cells import (
    ENGINES,
    MAIN,
    ROW_TOKENS,
    SATURATED,
    SETTINGS,
    SHARES,
    Cell,
    LadderMeasures,
    Place,
    Setting,
    case,
    engine_of,
    ladder_measures,
    limits,
    requests,
    requests_of,
    rungs,
)
from benchmarks.s1.replay_plots import draw
from benchmarks.s1.replay_rows import ladder_rows, points, sweep_rows
from benchmarks.s1.run import in_order
from benchmarks.s1.targets import targets
from gateway.replay.comparison import Case, compare
from gateway.replay.workload.workload import Workload

APPS = (*MAIN.apps, "story")


def texts() -> Workload:
    """A request of 60 + 20 tokens of each app; then a long prompt, and a long answer."""
    prompts = [60] * len(APPS) + [1_025, 10]
    answers = [20] * len(APPS) + [20, 1_025]
    apps = [*range(len(APPS)), 0, 0]
    workload = Workload.of(np.zeros(len(apps)), prompts, answers, app=apps, apps=APPS)
    return workload.with_quantiles(np.tile(np.float32([5, 10, 20, 30, 40, 50]), (len(apps), 1)))


def cases(predictor: str, load: float | None = SATURATED, count: int = 84) -> Case[Place]:
    make = partial(requests, texts(), MAIN, load, 50.0, count, 0)
    return case(Place(MAIN.name, load, predictor), make, rungs(MAIN, predictor), seed=0)


def measures(speed: float = 1.0) -> LadderMeasures:
    return LadderMeasures(
        requests_s=2.0 * speed,
        tokens_s=90.0 * speed,
        valid_tokens_s=60.0 * speed,
        mean_s=8.0 / speed,
        p95_s=20.0 / speed,
        batch_size=7.0,
        preempted=0.0,
        unanswered=0,
    )


def cells(speed: float = 4.0) -> list[Cell]:
    """The ladder with two seeds; every rung with a predictor is `speed` times as fast as fixed."""
    return [
        Cell(
            key=Place(MAIN.name, load, predictor),
            seed=seed,
            rate_s=10.0,
            measured={
                rung.name: measures(speed if predictor != NO_PREDICTOR else 1.0 + seed)
                for rung in rungs(MAIN, predictor)
            },
        )
        for load in (SATURATED, 0.9, 1.0, 1.1)
        for seed in range(2)
        for predictor in (NO_PREDICTOR, *PREDICTORS)
    ]


def rows(speed: float = 4.0) -> list[Row]:
    return list(ladder_rows(points(cells(speed))))


def test_setting_takes_its_apps_within_the_papers_lengths() -> None:
    paper, every, _ = SETTINGS
    assert len(requests_of(paper, texts())) == len(APPS) - 1
    found = requests_of(every, texts())
    assert len(found) == len(APPS)
    assert set(found.max_tokens.tolist()) == {1_024}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_pool_has_room_for_the_fixed_size_at_the_longest(setting: Setting) -> None:
    shape = engine_of(setting).shape
    assert shape.pages * shape.page_tokens == setting.rows * ROW_TOKENS
    assert rungs(setting, NO_PREDICTOR)[0].options.fixed_batch == setting.rows


def test_backlog_is_there_at_once_and_loads_arrive_at_their_rate() -> None:
    backlog = requests(texts(), MAIN, SATURATED, 50.0, 100, 0)
    assert backlog.arrived_s.max() == 0
    arriving = requests(texts(), MAIN, 1.0, 50.0, 100, 0)
    assert arriving.rate_s == pytest.approx(50.0)
    assert backlog.generation_tokens.tolist() == arriving.generation_tokens.tolist()


def test_every_rung_has_a_place_and_the_unpredicted_ones_a_single_one() -> None:
    names = [each.name for each in (*rungs(MAIN, NO_PREDICTOR), *rungs(MAIN, OUR_PREDICTOR))]
    assert sorted(names) == sorted(RUNGS)
    assert [each.name for each in rungs(MAIN, NO_PREDICTOR)] == list(UNPREDICTED)
    assert {each.predictor for each in rungs(MAIN, ORACLE_PREDICTOR)} == {"oracle"}


def test_lock_step_computes_tokens_after_the_end_of_answers_and_continuous_none() -> None:
    lengths = texts()
    lengths.generation_tokens[: len(APPS)] = np.arange(len(APPS)) * 10 + 1
    make = partial(requests, lengths, MAIN, SATURATED, 1.0, 140, 0)
    place = Place(MAIN.name, SATURATED, NO_PREDICTOR)
    [cell] = compare([case(place, make, rungs(MAIN, NO_PREDICTOR), 0)], ladder_measures)
    fixed, continuous = (cell.measured[name] for name in UNPREDICTED)
    assert fixed.valid_share < 1
    assert continuous.valid_share == 1
    assert fixed.batch_size == pytest.approx(140 / ENGINES / np.ceil(140 / ENGINES / 7))
    assert 1 < continuous.batch_size <= 7
    assert fixed.unanswered == continuous.unanswered == 0


def test_all_rungs_answer_the_same_requests() -> None:
    found = list(compare([cases(NO_PREDICTOR), cases(ORACLE_PREDICTOR)], ladder_measures))
    assert len({cell.rate_s for cell in found}) == 1
    for cell in found:
        assert all(each.unanswered == 0 for each in cell.measured.values())


def test_points_are_paired_with_fixed_by_seed() -> None:
    [magnus] = [
        point
        for point in points(cells(speed=4.0))
        if point.rung == MAGNUS and point.place == Place(MAIN.name, SATURATED, OUR_PREDICTOR)
    ]
    assert magnus.relative("requests_s").mean == pytest.approx((4 / 1 * 4 / 2) ** 0.5)
    assert magnus.of("requests_s").mean == pytest.approx(8.0)


def test_points_without_fixed_are_left_out() -> None:
    alone = [cell for cell in cells() if cell.key.predictor != NO_PREDICTOR]
    assert points(alone) == []


def test_rows_make_two_tables_with_the_backlog_first() -> None:
    found = rows()
    assert [row.get("load") for row in (found[0], found[-1])] == [None, 1.1]
    assert found[0]["rung"] == FIXED
    assert rows_table(found).count("| part |") == 2
    assert {row["part"] for row in found} == {REPLAY}


def test_sweep_has_a_row_for_each_limit_and_load() -> None:
    swept = Cell(
        key=Place(MAIN.name, 1.1, OUR_PREDICTOR),
        seed=0,
        rate_s=1.0,
        measured={each.name: measures(2.0) for each in limits()},
    )
    found = list(sweep_rows(points([*cells(), swept])))
    assert len(found) == len(limits()) > len(SHARES)
    assert {row["measure"] for row in found} == {"mean s"}
    assert list(ladder_rows(points([*cells(), swept]))) == rows()


@pytest.mark.parametrize(("speed", "met"), [(1.0, 0), (4.0, 4), (50.0, 6)])
def test_targets_are_the_papers_ranges(speed: float, met: int) -> None:
    found = targets(rows(speed))
    assert [target.met for target in found if f" {MAGNUS}:" in target.name].count(True) == met


def test_part_that_was_not_run_has_no_targets() -> None:
    assert targets([]) == []
    assert all(each.name.startswith(REPLAY) for each in targets(rows()))


def test_rows_stand_part_by_part() -> None:
    assert in_order([{"part": LIVE}, {"part": REPLAY}]) == [{"part": REPLAY}, {"part": LIVE}]


def test_plots_are_written(tmp_path: Path) -> None:
    draw(points(cells()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "S1-response.png",
        "S1-throughput.png",
    ]
