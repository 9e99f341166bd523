"""S5's deadlines, judged refusals, rows and targets."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.contenders import FCFS, OURS, pool_of
from benchmarks.harness.report import rows_table
from benchmarks.s5.cells import (
    CONTENDERS,
    REQUESTS,
    Cell,
    DeadlineMeasures,
    case,
    deadline_measures,
    goodput_s,
    judged_per_seed,
    meets_deadline,
    unloaded_s,
    without_deadline,
    without_refusal,
)
from benchmarks.s5.plots import draw
from benchmarks.s5.rows import relative, rows_of, targets, wilson_interval
from gateway.replay.comparison import Contender, compare, replay_contender
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import profile
from gateway.replay.measure.metrics import Measures, measure
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload

WRONGLY = "chat, tight: wrongly refused, let in"
ENGINE = profile("a100-80gb/llama-3-8b")


def equal_requests(count: int, apart_s: float = 0.0) -> Workload:
    """Requests of 100 + 50 tokens, perfectly predicted."""
    workload = Workload.of(np.arange(count) * apart_s, [100] * count, [50] * count)
    return workload.with_quantiles(np.full((count, 6), 50, np.float32))


def pool(requests: float) -> EngineModel:
    return pool_of(requests, ENGINE, equal_requests(1))


def measures() -> Measures:
    workload = equal_requests(3, apart_s=1.0)
    return measure(workload, replay_contender(Contender.of(FCFS), workload, pool(2)), pages=20)


def a_cell(seed: int = 0, ours: float = 3.0, fcfs_goodput_s: float = 1.0, wrong: int = 1) -> Cell:
    found = DeadlineMeasures(measures=measures(), goodput_s=fcfs_goodput_s, unloaded_s=0.5)
    refusing = DeadlineMeasures(
        measures=measures(),
        goodput_s=ours,
        unloaded_s=0.5,
        refused=900,
        judged=100,
        wrong=wrong,
        wrong_in_order=2 * wrong,
    )
    return Cell(
        key=("chat", "tight"),
        seed=seed,
        rate_s=4.0,
        measured=dict.fromkeys(CONTENDERS, found) | {OURS: refusing},
    )


def test_unloaded_time_is_that_of_a_single_request() -> None:
    found = unloaded_s(equal_requests(5), pool(2))
    cost = ENGINE.cost
    assert found == pytest.approx(found[0])
    assert found[0] == pytest.approx(
        cost.seconds(100, 0, 0) + cost.run_seconds(1, 101, 49), rel=0.05
    )


def test_only_answers_within_their_deadline_count() -> None:
    workload = replace(
        equal_requests(4, apart_s=10.0), deadline_s=np.array([1e-9, 100.0, 100.0, 100.0])
    )
    results = replay_contender(Contender.of(FCFS), workload, pool(2))
    assert goodput_s(workload, results) == pytest.approx(3 / 30)


def test_request_that_would_meet_its_deadline_was_refused_wrongly() -> None:
    workload = replace(equal_requests(2), deadline_s=np.full(2, 100.0))
    assert meets_deadline(1, workload, pool(2), without_deadline)
    assert meets_deadline(1, workload, pool(2), without_refusal)


def test_request_that_cannot_meet_its_deadline_was_refused_rightly() -> None:
    alone_s = unloaded_s(equal_requests(1), pool(1))[0]
    workload = replace(equal_requests(8), deadline_s=np.full(8, 0.5 * alone_s))
    assert not meets_deadline(7, workload, pool(1), without_deadline)
    assert not meets_deadline(7, workload, pool(1), without_refusal)


def test_request_without_refusal_keeps_its_deadline() -> None:
    workload = replace(equal_requests(3), deadline_s=np.full(3, 100.0))
    found = without_refusal(workload, 1)
    assert found.quantiles[1, 0] == 1
    assert found.quantiles[1, 1] == 50
    assert found.deadline_s[1] == 100
    assert np.isnan(without_deadline(workload, 1).deadline_s).tolist() == [False, True, False]


def test_cell_judges_at_most_the_given_number() -> None:
    scenario = Scenario(
        source=equal_requests(50), arrivals="poisson", sample_size=200, predictor="recorded"
    )
    overloaded = case(("chat", "tight"), scenario, pool(2), seed=0)
    (done,) = compare([overloaded], partial(deadline_measures, max_judged=3))
    assert done.measured[OURS].refused >= done.measured[OURS].judged
    assert done.measured[OURS].judged <= 3
    assert done.measured[FCFS].judged == 0
    assert list(done.measured) == list(CONTENDERS)


def test_targets_pool_judged_refusals_over_seeds() -> None:
    verdicts = {each.name: each for each in targets([a_cell(), a_cell(seed=1, wrong=4)])}
    assert verdicts[f"{WRONGLY} its deadline hidden, at most"].value == 0.025
    assert verdicts[f"{WRONGLY} but never refused, at most"].value == 0.05
    for other in ("FCFS", "SJF"):
        found = verdicts[f"chat, tight: in time over {other}'s at 1.3, at least"]
        assert found.value == pytest.approx(3)


def test_no_answer_in_time_counts_as_one() -> None:
    assert relative([a_cell(fcfs_goodput_s=0.0)], OURS, FCFS).mean == pytest.approx(
        3 / (4 / REQUESTS)
    )


def test_interval_of_a_share() -> None:
    low, high = wilson_interval(2, 100)
    assert (low, high) == pytest.approx((0.0055, 0.0700), abs=5e-4)
    assert wilson_interval(0, 0) == (None, None)


def test_judged_refusals_are_divided_among_seeds() -> None:
    assert judged_per_seed(210, 3) == 70


def test_rows_fit_their_tables() -> None:
    assert "met their deadline" in rows_table(list(rows_of([a_cell()])))


def test_plot_is_drawn(tmp_path: Path) -> None:
    draw([a_cell(), a_cell(seed=1)], tmp_path)
    assert (tmp_path / "S5-in-time.png").exists()
