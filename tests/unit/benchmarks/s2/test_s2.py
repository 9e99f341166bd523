"""S2's regimes, rows, targets and plots, on synthetic measures."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS, pool_of, trace_part
from benchmarks.harness.report import rows_table
from benchmarks.s2.cells import (
    COMPARED,
    EVERYWHERE,
    HELD,
    LOADS,
    MEAN_FIRST,
    ORACLE_MEAN_FIRST,
    OVERLOAD,
    SETTINGS,
    SHUFFLED,
    Cell,
    Regime,
    cases,
    contenders,
    loads_of,
    regimes,
    scenario,
)
from benchmarks.s2.plots import draw_deciles, draw_loads
from benchmarks.s2.rows import Point, gain_row, points, rows_of, source_row
from benchmarks.s2.targets import targets
from gateway.replay.comparison import Contender, compare, measures_of, replay_contender
from gateway.replay.cost.profiles import profile
from gateway.replay.measure.metrics import Measures, measure
from gateway.replay.workload.workload import Workload

TIGHT = Regime("texts", "poisson", "tight")
MEANS = {OURS: 7.0, OUR_ORACLE: 5.0, SHUFFLED: 10.1, MEAN_FIRST: 2.5, ORACLE_MEAN_FIRST: 2.0}


MEAN_FIRST_TARGET = (
    "texts: FCFS's mean over ours at 1.1, mean first, where the oracle's is ≥ 3, at least"
)
P99_TARGET = "texts: p99 over 1.05 times FCFS's, or over the oracle's if more, load ≤ 0.9, at most"


@cache
def measured() -> Measures:
    """Measures of ten requests."""
    workload, engine = a_workload(10), profile("a100-80gb/llama-3-8b")
    results = replay_contender(Contender.of(FCFS), workload, engine)
    return measure(workload, results, engine.shape.pages, results.dispatched_s)


def measures(mean_s: float = 10.0, p99_s: float = 40.0) -> Measures:
    """Measures with given response times."""
    return msgspec.structs.replace(measured(), mean_s=mean_s, p99_s=p99_s)


def a_cell(load: float = 0.9, seed: int = 0, regime: Regime = TIGHT, **means: float) -> Cell:
    wanted = MEANS | means
    found = {each.name: measures(wanted.get(each.name, 10.0)) for each in contenders(regime, load)}
    return Cell(key=(regime, load), seed=seed, rate_s=3.0, measured=found)


def a_workload(count: int = 200) -> Workload:
    generator = np.random.default_rng(4)
    tokens = generator.integers(5, 200, count)
    workload = Workload.of(np.arange(count) / 10, generator.integers(10, 300, count), tokens)
    return workload.with_quantiles(
        tokens[:, None] * np.array([0.4, 0.7, 1, 1.4, 2, 2.5], np.float32)
    )


def test_overload_settings_run_only_in_overload() -> None:
    assert not SETTINGS.keys() & {each.name for each in contenders(TIGHT, 1.0)}
    assert SETTINGS.keys() < {each.name for each in contenders(TIGHT, OVERLOAD)}


def test_other_contenders_run_only_at_some_loads() -> None:
    def names(regime: Regime, load: float) -> list[str]:
        return [each.name for each in contenders(regime, load)]

    bursts = Regime("texts", "bursts", "tight")
    assert names(TIGHT, 0.5) == [*EVERYWHERE, HELD, "sjf", "hrrn", SHUFFLED]
    assert names(TIGHT, 0.9) == [*COMPARED, SHUFFLED]
    assert names(bursts, 0.5) == list(EVERYWHERE)
    assert names(bursts, 0.9) == [*EVERYWHERE, HELD, "sjf", "hrrn", SHUFFLED]
    assert loads_of(bursts) == (0.7, 0.9, 1.1)


def test_fcfs_is_measured_first_with_recorded_predictions() -> None:
    first = next(contenders(TIGHT, LOADS[0]))
    assert (first.name, first.predictor) == (FCFS, "recorded")


def test_regimes_are_selected_by_prefix() -> None:
    assert [str(each) for each in regimes(["texts", "trace"], "texts/bursts,trace")] == [
        "texts/bursts/tight",
        "texts/bursts/roomy",
        "trace/trace/tight",
        "trace/trace/roomy",
    ]
    assert len(regimes(["texts", "trace"], "")) == 6


@pytest.mark.parametrize(("seed", "first"), [(0, 0), (1, 75), (2, 150)])
def test_parts_of_the_trace_are_evenly_spaced(seed: int, first: int) -> None:
    trace = a_workload(200)
    part = trace_part(trace, 50, seed, 3)
    assert part.arrived_s[0] == trace.arrived_s[first]
    assert len(part) == 50


def test_pool_holds_as_many_mean_requests_in_whole_pages() -> None:
    requests = Workload.of([0.0, 0.0], [16, 17], [16, 16])  # 2 and 3 pages
    assert pool_of(8, profile("a100-80gb/llama-3-8b"), requests).shape.pages == 20


def test_gain_is_that_of_the_means_next_to_the_oracles() -> None:
    point = Point(TIGHT, 0.9, (a_cell(), a_cell(seed=1, lmaas=8.0)))
    ours = 1 - (0.7 * 0.8) ** 0.5
    row = gain_row(point)
    assert row["oracle's gain"] == pytest.approx(0.5)
    assert row["gain"] == pytest.approx(ours)
    assert row["gain/oracle's"] == pytest.approx(ours / 0.5)
    assert row["low"] < ours < row["high"] < 1
    assert row["policies"][OURS]["mean_s"]["mean"] == pytest.approx(7.5)


def test_share_is_missing_if_the_oracle_gains_little() -> None:
    point = Point(TIGHT, 0.5, (a_cell(load=0.5, **{OUR_ORACLE: 9.5}),))
    assert point.share is None


def test_targets_look_at_the_worst_cell_of_a_source() -> None:
    found = points(
        [a_cell(), a_cell(load=OVERLOAD, lmaas=9.0), a_cell(load=0.5, **{OUR_ORACLE: 9.9})]
    )
    verdicts = {each.name: each for each in targets(found)}
    least = verdicts["texts: least part of oracle-lmaas' gain where that is ≥ 10 %, at least"]
    assert least.value == pytest.approx(0.2)
    assert not least.met
    assert verdicts["texts: mean over FCFS's elsewhere, at most"].value == pytest.approx(0.7)
    assert verdicts[MEAN_FIRST_TARGET].met
    assert verdicts["texts: mean over FCFS's, labels shuffled, at most"].met


def test_mean_first_is_judged_only_where_the_oracle_reaches_the_target() -> None:
    found = points([a_cell(load=OVERLOAD, **{ORACLE_MEAN_FIRST: 4.0})])
    assert MEAN_FIRST_TARGET not in {each.name for each in targets(found)}


@pytest.mark.parametrize(
    ("ours", "oracle", "value"), [(42.0, 40.0, 1.0), (44.0, 44.0, 1.0), (46.2, 30.0, 1.1)]
)
def test_p99_may_be_the_oracles_or_a_twentieth_above_that_of_fcfs(
    ours: float, oracle: float, value: float
) -> None:
    cell = a_cell()
    found = {**cell.measured, OURS: measures(7.0, ours), OUR_ORACLE: measures(5.0, oracle)}
    verdicts = {each.name: each for each in targets(points([replace(cell, measured=found)]))}
    assert verdicts[P99_TARGET].value == pytest.approx(value)


def test_overload_that_was_not_measured_is_a_missed_target() -> None:
    verdicts = {each.name: each for each in targets(points([a_cell()]))}
    missing = verdicts["texts: p99 over FCFS's at 1.1, bounded, at most"]
    assert (missing.value, missing.met) == (None, False)


def test_rows_fit_their_tables_and_the_result_file() -> None:
    rows = rows_of(points([a_cell(), a_cell(load=OVERLOAD)]))
    table = rows_table(rows)
    assert "| texts | poisson | tight | 0.9 |" in table
    assert "bounded" in table
    assert "policies" not in table
    msgspec.json.encode(rows)


def test_source_row_has_the_quality_of_its_predictions() -> None:
    requests = a_workload()
    row = source_row("texts", requests, requests, profile("a100-80gb/llama-3-8b"))
    assert row["τ"] == pytest.approx(1)
    assert row["P90 covers"] == 1


def test_cell_replays_every_contender() -> None:
    requests = a_workload()
    engine = pool_of(8, profile("a100-80gb/llama-3-8b"), requests)
    sample_size = scenario(requests, TIGHT, 150, 0, 3)
    (done,) = compare(cases(TIGHT, [sample_size], [5.0], engine, [1.1]), measures_of)
    assert done.key == (TIGHT, 1.1)
    assert done.rate_s == pytest.approx(5.5)
    assert list(done.measured) == [each.name for each in contenders(TIGHT, 1.1)]
    assert {each.requests for each in done.measured.values()} == {150}


def test_plots_are_drawn(tmp_path: Path) -> None:
    cells = [
        a_cell(load=load, seed=seed, regime=Regime("texts", "poisson", pool))
        for pool in ("tight", "roomy")
        for load in (0.9, 1.0, OVERLOAD)
        for seed in range(2)
    ]
    draw_loads(points(cells), tmp_path)
    draw_deciles(points(cells), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "S2-mean.png",
        "S2-p99.png",
        "S2-deciles.png",
    }
