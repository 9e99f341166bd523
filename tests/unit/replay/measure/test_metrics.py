"""Measures of a replay."""

from math import isnan
from typing import Any

import numpy as np
import pytest

from gateway.replay.measure.metrics import SCALARS, Measures, deciles, measure, served
from gateway.replay.measure.results import ReplayResults
from gateway.replay.measure.time_series import BUCKETS, time_series
from gateway.replay.workload.workload import Workload

NAN = float("nan")


def a_workload(count: int = 4, **columns: Any) -> Workload:
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
        "reused_tokens": np.zeros(count, np.int32),
        "batch_size": np.ones(count, np.int32),
        "overdue": np.zeros(count, np.bool_),
        "gave_up": np.isnan(finished),
        "time_s": np.array([0.0, 5.0]),
        "waiting": np.array([0, 3]),
        "running": np.array([1, 2]),
        "kv_pages": np.array([10, 40]),
        "steps": 7,
        "computed_tokens": 200,
        "recomputed_tokens": 20,
        "invalid_tokens": 0,
        "splits": 3,
        "pins": 0,
        "pins_lost": 0,
        "held_rows": 0,
        "busy_s": 8.0,
        "page_seconds": 400.0,
        "order_changes": 0,
        "decisions": 4,
        "decision_s": 0.001,
    }
    return ReplayResults(**{**given, **columns})


def measured(finished_s: list[float], workload: Workload | None = None, **columns: Any) -> Measures:
    requests = workload or a_workload(len(finished_s))
    return measure(requests, results(finished_s, **columns), pages=100)


def test_times_count_from_the_arrival() -> None:
    measures = measured([4, 5, 6, 15])
    assert (measures.mean_s, measures.p50_s) == (6, 4)
    assert measures.p99_s == pytest.approx(12 - 8 * 0.03)
    assert (measures.ttft_mean_s, measures.wait_mean_s) == (5, 4)
    assert measures.makespan_s == 15
    assert measures.tokens_s == pytest.approx(80 / 15)
    assert measures.requests_s == pytest.approx(4 / 15)


def test_memory_use_and_decision_times_are_means() -> None:
    measures = measured([4, 5, 6, 15], preemptions=np.array([0, 2, 0, 0]))
    assert measures.kv_use == pytest.approx(0.5)
    assert measures.preempted == 0.25
    assert measures.recomputed == pytest.approx(0.1)
    assert measures.splits == 3
    assert measures.decision_us == pytest.approx(250)


def test_batch_size_is_a_mean_over_batches() -> None:
    one_of_two_one_of_three = measured([4, 5, 6, 7, 15], batch_size=np.array([3, 2, 3, 2, 3]))
    assert one_of_two_one_of_three.batch_size == pytest.approx(2.5)
    assert measured([4, 5, NAN, 15], batch_size=np.array([3, 3, 0, 3])).batch_size == 3


def test_requests_that_gave_up_are_counted_but_not_in_means() -> None:
    measures = measured([4, NAN, NAN, 5])
    assert measures.mean_s == 3
    assert measures.gave_up == 0.5
    assert measures.tokens_s == 8


def test_goodput_counts_what_was_answered_in_time() -> None:
    requests = a_workload(4, deadline_s=[3.9, 4.1, 100, NAN])
    measures = measured([4, 5, NAN, 20], requests)
    assert measures.in_time == pytest.approx(1 / 3)
    assert measures.goodput_s == pytest.approx(1 / 20)


def test_without_deadlines_there_is_no_goodput() -> None:
    measures = measured([4, 5, 6, 7])
    assert isnan(measures.in_time)
    assert isnan(measures.goodput_s)


def test_delay_is_behind_first_come_first_served() -> None:
    ours, theirs = results([4, 5, 9]), results([4, 8, 6])
    measures = measure(a_workload(3), ours, 100, theirs.dispatched_s)
    assert measures.extra_delay_s == 3
    assert measure(a_workload(3), theirs, 100, theirs.dispatched_s).extra_delay_s == 0
    assert isnan(measure(a_workload(3), ours, 100).extra_delay_s)


def test_run_without_answers_has_nan_measures() -> None:
    measures = measured([NAN, NAN])
    assert isnan(measures.mean_s)
    assert measures.gave_up == 1


def test_deciles_go_by_true_length() -> None:
    tokens = np.array([50, 10, 30, 20, 40, 60, 80, 70, 100, 90])
    assert deciles(tokens, tokens.astype(float)) == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def test_shares_are_of_tokens() -> None:
    requests = a_workload(
        3, tenant=[0, 1, 1], tenants=["small", "large"], generation_tokens=[20, 30, 50]
    )
    assert served(requests, np.array([True, True, True])) == {"large": 0.8, "small": 0.2}
    assert served(requests, np.array([True, False, False])) == {"small": 1.0, "large": 0.0}


def test_response_is_measured_by_tenant() -> None:
    requests = a_workload(3, tenant=[0, 1, 1], tenants=["a", "b", "absent"])
    measures = measured([4, 5, 7], requests)
    assert measures.tenants_s["a"] == 4
    assert measures.tenants_s["b"] == 4.5
    assert isnan(measures.tenants_s["absent"])


def test_scalars_are_all_measures_except_collections() -> None:
    assert set(Measures.__struct_fields__) - set(SCALARS) == {
        "deciles_s",
        "served",
        "tenants_s",
    }


def test_time_series_counts_tokens_when_answers_end() -> None:
    requests = a_workload(2, tenant=[0, 1], tenants=["a", "b"], generation_tokens=[20, 60])
    measures = time_series(requests, results([1, 10]), pages=80)
    width_s = measures.edges_s[1]
    assert measures.edges_s[-1] == 10
    assert len(measures.served["a"]) == BUCKETS
    assert measures.served["a"].sum() * width_s == pytest.approx(20)
    assert measures.served["b"][-1] * width_s == pytest.approx(60)
    assert measures.kv_use.tolist() == [0.125, 0.5]


def test_smallest_tenants_are_summed_as_one() -> None:
    tokens = np.arange(20) + 1
    names = [f"t{number}" for number in range(20)]
    requests = a_workload(20, tenant=np.arange(20), tenants=names, generation_tokens=tokens)
    measures = time_series(requests, results([30.0] * 20), pages=80)
    assert list(measures.served) == ["t19", "t18", "t17", "t16", "t15", "t14", "t13", "others"]
