"""Workloads: requests as columns."""

import numpy as np
import pytest

from gateway.errors import InvalidRequest
from gateway.replay.workload.workload import Workload
from gateway.scheduling.requests import QueuedRequest


def a_workload(count: int = 4, **columns: object) -> Workload:
    given = {"arrived_s": np.arange(count), "prompt_tokens": 10, "generation_tokens": 20}
    return Workload.of(**{**given, **columns})  # type: ignore[arg-type]


def test_requests_come_in_order_of_arrival_counted_from_the_first() -> None:
    found = a_workload(
        3, arrived_s=[9, 7, 8], prompt_tokens=[1, 2, 3], tenant=[0, 1, 0], tenants=["a", "b"]
    )
    found.check()
    assert found.arrived_s.tolist() == [0, 1, 2]
    assert found.prompt_tokens.tolist() == [2, 3, 1]
    assert [found.request(index).tenant for index in range(3)] == ["b", "a", "a"]


def test_requests_of_one_instant_keep_their_order() -> None:
    assert a_workload(3, arrived_s=[5, 5, 5], prompt_tokens=[3, 1, 2]).prompt_tokens.tolist() == [
        3,
        1,
        2,
    ]


def test_single_value_is_used_for_every_request() -> None:
    found = a_workload(3, share=2.5)
    assert found.share.tolist() == [2.5] * 3
    assert found.generation_tokens.tolist() == [20] * 3


def test_scheduler_gets_the_request_without_its_length() -> None:
    quantiles = [[1, 2, 3, 4, 5, 6]]
    found = a_workload(
        1,
        arrived_s=[0],
        quantiles=quantiles,
        max_tokens=99,
        deadline_s=7,
        share=2,
        urgency=3,
        user=4,
        app_share=5,
    )
    assert found.request(0) == QueuedRequest(
        id="0",
        tenant="default",
        prompt_tokens=10,
        quantiles=(1, 2, 3, 4, 5, 6),
        max_tokens=99,
        arrived_s=0,
        share=2,
        urgency=3,
        deadline_s=7,
        start_by_s=None,
        app="default",
        user="4",
        app_share=5,
    )
    assert a_workload(1).request(0).user == ""


def test_deadlines_are_on_the_clock_of_the_arrivals() -> None:
    last = a_workload(3, deadline_s=5, start_by_s=[np.nan, np.nan, 1]).request(2)
    assert (last.deadline_s, last.start_by_s) == (7, 3)


def test_max_tokens_defaults_to_the_longest_answer() -> None:
    assert a_workload(2, generation_tokens=[5, 80]).max_tokens.tolist() == [80, 80]


def test_workload_has_no_predictions_until_quantiles_are_set() -> None:
    found = a_workload()
    assert not found.has_predictions
    assert found.with_quantiles(np.ones((4, 6), np.float32)).has_predictions


def test_quantiles_stay_between_one_and_max_tokens() -> None:
    clipped = a_workload(2, max_tokens=[20, 400]).with_quantiles(
        np.full((2, 6), [0, 1, 30, 300, 500, 600], np.float32)
    )
    assert clipped.quantiles.dtype == np.float32
    assert clipped.quantiles.tolist() == [[1, 1, 20, 20, 20, 20], [1, 1, 30, 300, 400, 400]]


def test_part_of_a_workload_keeps_its_names() -> None:
    whole = a_workload(4, tenant=[0, 1, 0, 1], tenants=["a", "b"])
    part = whole.take(slice(1, None, 2))
    part.check()
    assert [part.request(index).tenant for index in range(len(part))] == ["b", "b"]
    assert part.arrived_s.tolist() == [1, 3]


def test_requests_too_long_for_the_engine_are_left_out_and_others_capped() -> None:
    found = a_workload(3, prompt_tokens=[10, 90, 50], generation_tokens=20, max_tokens=60).within(
        100
    )
    assert found.prompt_tokens.tolist() == [10, 50]
    assert found.max_tokens.tolist() == [60, 50]
    found.check()


def test_rate_counts_the_gaps() -> None:
    assert a_workload(11, arrived_s=np.arange(11) / 2).rate_s == pytest.approx(2)
    assert a_workload(3, arrived_s=[1, 1, 1]).rate_s == float("inf")


def test_without_deadlines_requests_have_no_time_limits() -> None:
    request = (
        a_workload(1, arrived_s=[0], deadline_s=3, start_by_s=4).without_deadlines().request(0)
    )
    assert (request.deadline_s, request.start_by_s) == (None, None)


def test_too_many_tenants_for_a_column_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than 32,768 tenants"):
        a_workload(tenants=["x"] * 32_769)


def test_a_million_requests_take_less_than_a_hundred_megabytes() -> None:
    found = a_workload(1_000_000)
    columns = [value for value in vars(found).values() if isinstance(value, np.ndarray)]
    assert sum(column.nbytes for column in columns) < 100e6
