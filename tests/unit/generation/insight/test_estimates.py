"""Expected start and end of queued requests."""

from collections.abc import Generator

import pytest

from gateway.generation.insight.estimates import (
    ExpectedTurn,
    expected_turns,
    first_free_s,
    seconds_per_token,
)
from gateway.scheduling.dispatch import waiting_batch_of
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from tests.unit.generation.conftest import SchedulerScene


def a_batch(*medians: float, serving_s: float = 2.0, tenants: str = "t") -> WaitingBatch:
    requests = [
        QueuedRequest(
            f"{place} {median}", tenants[place % len(tenants)], 10, (median,) * 6, 100, 0.0
        )
        for place, median in enumerate(medians)
    ]
    return waiting_batch_of("b", requests, serving_s=serving_s, now_s=0.0)


def test_batches_start_in_turn_at_the_present_concurrency() -> None:
    batches = [a_batch(10.0, 10.0), a_batch(30.0, serving_s=4.0), a_batch(5.0)]
    turns = list(expected_turns(batches, 4, 0.5))
    assert [turn.position for turn in turns] == [1, 2, 3, 4]
    assert [turn.start_s for turn in turns] == pytest.approx([0.5, 0.5, 1.5, 2.5])


def test_request_runs_for_its_share_of_the_batch() -> None:
    short, long = expected_turns([a_batch(10.0, 40.0, serving_s=8.0)], 1, 0.0)
    assert (short.finish_s, long.finish_s) == pytest.approx((2.0, 8.0))


def test_idle_engine_is_assumed_to_run_one_request_at_a_time() -> None:
    first, second = expected_turns([a_batch(10.0), a_batch(10.0)], 0, 0.0)
    assert (first.start_s, second.start_s) == (0.0, 2.0)


def test_empty_queue_has_no_expected_turns() -> None:
    assert list(expected_turns([], 3, 1.0)) == []


def left_to_skip(turns: Generator[ExpectedTurn, None, int]) -> int:
    while True:
        try:
            next(turns)
        except StopIteration as end:
            return int(end.value)


@pytest.mark.parametrize("tenant", [None, "a", "b", "c"])
@pytest.mark.parametrize("skip", range(9))
def test_skipped_and_other_tenants_turns_are_left_out_and_the_others_stay(
    tenant: str | None, skip: int
) -> None:
    batches = [
        a_batch(10.0, 30.0, tenants="a"),
        a_batch(20.0, 10.0, 40.0, tenants="ab"),
        a_batch(50.0, tenants="b"),
        a_batch(5.0, 5.0, tenants="a"),
    ]
    every = list(expected_turns(batches, 2, 1.0))
    wanted = [turn for turn in every if tenant in {None, turn.request.tenant}]
    assert list(expected_turns(batches, 2, 1.0, tenant=tenant, skip=skip)) == wanted[skip:]
    left = left_to_skip(expected_turns(batches, 2, 1.0, tenant=tenant, skip=skip))
    assert left == max(skip - len(wanted), 0)


async def test_pace_is_the_requests_own_after_two_tokens(
    scene: SchedulerScene,
) -> None:
    state = scene.request()
    assert seconds_per_token(state, 5.0, None) is None
    assert seconds_per_token(state, 5.0, 0.25) == 0.25
    state.grow([1], 4.0)
    state.grow([2, 3, 4], 4.5)
    assert seconds_per_token(state, 4.6, 0.25) == pytest.approx(0.5 / 3), "of those that came"
    assert seconds_per_token(state, 7.0, 0.25) == 0.5, "as many more have come by now at most"


async def test_first_free_time_is_the_first_expected_end(scene: SchedulerScene) -> None:
    states = [scene.request(), scene.request()]
    assert first_free_s(states, [30.0, 20.0], 0.0, 0.1) == pytest.approx(2.0)
    assert first_free_s(states, [30.0, 20.0], 0.0, None) == 0.0
    assert first_free_s([], [], 0.0, 0.1) == 0.0
