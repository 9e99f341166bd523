"""What a replay comes to in numbers."""

from math import isnan
from typing import Any

import numpy as np
import pytest

from gateway.replay.measure.metrics import SCALARS, Measures, deciles, measure, served
from gateway.replay.measure.results import ReplayResults
from gateway.replay.measure.time_series import BUCKETS, time_series
from gateway.replay.workload.workload import Workload

NAN = float("nan")


def some(count: int = 4, **columns: Any) -> Workload:
    given = {"arrived_s": np.arange(count), "prompt_tokens": 10, "generation_tokens": 20}
    return Workload.of(**{**given, **columns})


def results(finished_s: list[float], **columns: Any) -> ReplayResults:
    finished = np.array(finished_s, dtype=np.float64)
    count = len(finished)
    given: dict[str, Any] = {
        "dispatched_s": finished - 2,
        "first_token_s": finished - 1,
        "finished_s": finished,
        "preemptions": np.zeros(count, np.int32),
        "overdue": np.zeros(count, np.bool_),
        "gave_up": np.isnan(finished),
        "time_s": np.array([0.0, 5.0]),
        "waiting": np.array([0, 3]),
        "running": np.array([1, 2]),
        "kv_pages": np.array([10, 40]),
        "steps": 7,
        "computed_tokens": 200,
        "recomputed_tokens": 20,
        "busy_s": 8.0,
        "page_seconds": 400.0,
        "order_changes": 0,
        "decisions": 4,
        "decision_s": 0.001,
    }
    return ReplayResults(**{**given, **columns})


def measured(finished_s: list[float], workload: Workload | None = None, **columns: Any) -> Measures:
    requests = workload or some(len(finished_s))
    return measure(requests, results(finished_s, **columns), pages=100)


def test_times_count_from_the_arrival() -> None:
    found = measured([4, 5, 6, 15])
    assert (found.mean_s, found.p50_s) == (6, 4)
    assert found.p99_s == pytest.approx(12 - 8 * 0.03)
    assert (found.ttft_mean_s, found.wait_mean_s) == (5, 4)
    assert found.makespan_s == 15
    assert found.tokens_s == pytest.approx(80 / 15)
    assert found.requests_s == pytest.approx(4 / 15)


def test_memory_and_decisions_are_told_as_means() -> None:
    found = measured([4, 5, 6, 15], preemptions=np.array([0, 2, 0, 0]))
    assert found.kv_use == pytest.approx(0.5)
    assert found.preempted == 0.25
    assert found.recomputed == pytest.approx(0.1)
    assert found.decision_us == pytest.approx(250)


def test_who_gave_up_counts_as_such_and_in_no_mean() -> None:
    found = measured([4, NAN, NAN, 5])
    assert found.mean_s == 3
    assert found.gave_up == 0.5
    assert found.tokens_s == 8


def test_goodput_counts_what_was_answered_in_time() -> None:
    requests = some(4, deadline_s=[3.9, 4.1, 100, NAN])
    found = measured([4, 5, NAN, 20], requests)
    assert found.in_time == pytest.approx(1 / 3)
    assert found.goodput_s == pytest.approx(1 / 20)


def test_without_deadlines_there_is_no_goodput() -> None:
    found = measured([4, 5, 6, 7])
    assert isnan(found.in_time)
    assert isnan(found.goodput_s)


def test_delay_is_behind_first_come_first_served() -> None:
    ours, theirs = results([4, 5, 9]), results([4, 8, 6])
    found = measure(some(3), ours, 100, theirs.dispatched_s)
    assert found.extra_delay_s == 3
    assert measure(some(3), theirs, 100, theirs.dispatched_s).extra_delay_s == 0
    assert isnan(measure(some(3), ours, 100).extra_delay_s)


def test_nobody_answered_gives_no_figures_and_no_error() -> None:
    found = measured([NAN, NAN])
    assert isnan(found.mean_s)
    assert found.gave_up == 1


def test_deciles_go_by_true_length() -> None:
    tokens = np.array([50, 10, 30, 20, 40, 60, 80, 70, 100, 90])
    assert deciles(tokens, tokens.astype(float)) == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def test_shares_are_of_tokens() -> None:
    requests = some(3, tenant=[0, 1, 1], tenants=["small", "large"], generation_tokens=[20, 30, 50])
    assert served(requests, np.array([True, True, True])) == {"large": 0.8, "small": 0.2}
    assert served(requests, np.array([True, False, False])) == {"small": 1.0, "large": 0.0}


def test_response_is_told_by_tenant() -> None:
    requests = some(3, tenant=[0, 1, 1], tenants=["a", "b", "absent"])
    found = measured([4, 5, 7], requests)
    assert found.tenants_s["a"] == 4
    assert found.tenants_s["b"] == 4.5
    assert isnan(found.tenants_s["absent"])


def test_every_figure_but_lists_is_a_scalar() -> None:
    assert set(Measures.__struct_fields__) - set(SCALARS) == {
        "deciles_s",
        "served",
        "tenants_s",
    }


def test_course_counts_an_answers_tokens_when_it_ends() -> None:
    requests = some(2, tenant=[0, 1], tenants=["a", "b"], generation_tokens=[20, 60])
    found = time_series(requests, results([1, 10]), pages=80)
    width_s = found.edges_s[1]
    assert found.edges_s[-1] == 10
    assert len(found.served["a"]) == BUCKETS
    assert found.served["a"].sum() * width_s == pytest.approx(20)
    assert found.served["b"][-1] * width_s == pytest.approx(60)
    assert found.kv_use.tolist() == [0.125, 0.5]


def test_many_small_tenants_are_one() -> None:
    tokens = np.arange(20) + 1
    names = [f"t{number}" for number in range(20)]
    requests = some(20, tenant=np.arange(20), tenants=names, generation_tokens=tokens)
    found = time_series(requests, results([30.0] * 20), pages=80)
    assert list(found.served) == ["t19", "t18", "t17", "t16", "t15", "t14", "t13", "others"]
