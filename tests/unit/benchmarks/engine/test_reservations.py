"""What E3 reserves, where its answers stop, and what it reads from the engine's events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine.client import RunTrace, TimedStep
from benchmarks.engine.e3 import MAX_GENERATED, policies, stop_length
from benchmarks.engine.floor import ideal_steps
from benchmarks.engine.occupancy import occupancy
from benchmarks.engine.reservations import predicted, relative_error
from benchmarks.engine.workload import Request, mixed_requests
from engine.protocol import KvState, Step

LENGTHS = [request.tokens for request in mixed_requests()]


@pytest.mark.parametrize("error", [0.25, 0.5])
def test_predictions_have_the_stated_error(error: float) -> None:
    guesses = predicted(LENGTHS, MAX_GENERATED, error)
    assert relative_error(guesses, LENGTHS) == pytest.approx(error, abs=0.01)
    assert all(1 <= guess <= MAX_GENERATED for guess in guesses)


def test_about_half_of_the_predictions_are_too_short() -> None:
    guesses = predicted(LENGTHS, MAX_GENERATED, 0.25)
    short = sum(guess < length for guess, length in zip(guesses, LENGTHS, strict=True))
    assert 0.35 < short / len(LENGTHS) < 0.65


def test_predictions_are_the_same_every_time() -> None:
    assert predicted(LENGTHS, MAX_GENERATED, 0.25) == predicted(LENGTHS, MAX_GENERATED, 0.25)


def test_oracle_reserves_what_is_needed_and_maximum_what_is_allowed() -> None:
    reserves = policies(LENGTHS)
    assert reserves["oracle"] == [length + 1 for length in LENGTHS]
    assert set(reserves["maximum"]) == {MAX_GENERATED}
    assert set(reserves["none"]) == {1}


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(1, 40))
def test_answer_stops_at_a_token_that_did_not_occur_before(answer: list[int], wanted: int) -> None:
    if len(set(answer)) == 1:
        return
    length = stop_length(answer, wanted)
    assert answer[length] not in answer[:length]
    new = {answer.index(token) for token in answer} - {0}
    assert abs(length - wanted) == min(abs(place - wanted) for place in new)


def a_step(number: int, free: int, running: int, **fields: object) -> Step:
    return Step(number, KvState(10, free, 16), fields.pop("tokens", {}), running=running, **fields)


def test_memory_use_is_weighted_by_time() -> None:
    trace = RunTrace(
        timed_steps=[
            TimedStep(0.0, a_step(1, free=0, running=4, waiting=1)),
            TimedStep(3.0, a_step(2, free=10, running=2)),
            TimedStep(4.0, a_step(3, free=10, running=0)),
        ]
    )
    assert occupancy(trace) == (3.5, 0.75, 1.0)


def test_preempted_sequence_is_not_in_flight_until_it_is_back() -> None:
    trace = RunTrace(
        timed_steps=[
            TimedStep(0.0, a_step(1, free=5, running=2, preempted=["a"])),
            TimedStep(1.0, a_step(2, free=5, running=2, tokens={"b": [1]})),
            TimedStep(2.0, a_step(3, free=5, running=2, tokens={"a": [1], "b": [1]})),
            TimedStep(4.0, a_step(4, free=10, running=0)),
        ]
    )
    assert occupancy(trace).in_flight == 1.5
    assert occupancy(trace).kv_use_queued is None


def test_ideal_steps_compute_every_token_once() -> None:
    requests = mixed_requests(20)
    steps = list(ideal_steps(requests, 128))
    due = sum(len(request.prompt) + request.tokens - 1 for request in requests)
    assert sum(step.tokens for step in steps) == due
    assert sum(step.sampled for step in steps) == sum(request.tokens for request in requests)
    assert max(step.tokens for step in steps) <= 128


def test_one_request_takes_a_step_for_each_of_its_tokens() -> None:
    steps = list(ideal_steps([Request("a", [1, 2, 3], 4)], 8))
    assert [step.tokens for step in steps] == [3, 1, 1, 1]
