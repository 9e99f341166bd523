"""A period of a budget: what is refused, held and grown."""

import pytest

from benchmarks.t1.period import PREFILL_S, TOKEN_S, Arrival, replay
from benchmarks.t1.rules import OURS, rules
from gateway.scheduling.requests import QueuedRequest

RULES = rules({"app": 50.0})


def an_arrival(number: int, tokens: int, *, at_s: float = 0.0) -> Arrival:
    request = QueuedRequest(
        id=str(number),
        tenant="tenant",
        prompt_tokens=10,
        quantiles=(10.0, 20.0, 30.0, 60.0, 90.0, 120.0),
        max_tokens=1_000,
        arrived_s=1_000_000.0 + at_s,
    )
    return Arrival(request, "app", tokens)


def test_a_refusal_is_wrong_if_the_true_lengths_leave_room() -> None:
    arrivals = [an_arrival(0, 30), an_arrival(1, 30)]
    enough, too_little = replay(arrivals, 120, RULES[OURS]), replay(arrivals, 30, RULES[OURS])
    assert (enough.admitted, enough.refused, enough.wrongly_refused) == (1, 1, 1)
    assert (too_little.refused, too_little.wrongly_refused) == (2, 0)


def test_a_settled_hold_makes_room() -> None:
    arrivals = [an_arrival(0, 30), an_arrival(1, 30, at_s=60.0)]
    assert replay(arrivals, 140, RULES[OURS]).admitted == 2


def test_an_answer_longer_than_predicted_grows_and_overruns_a_spent_budget() -> None:
    outcome = replay([an_arrival(0, 400)], 100, RULES[OURS])
    assert outcome.grown >= 1
    assert outcome.used == 410


def test_what_is_held_over_a_life_follows_the_growth() -> None:
    outcome = replay([an_arrival(0, 80)], 1_000, RULES["P90 per app"])
    until_grown_s = PREFILL_S + 50 * TOKEN_S
    held, reached = 60, 50
    held_s = [(held, until_grown_s)]
    while reached < 80:
        by = -(-reached // 4)
        held, before = held + by, reached
        reached = min(held - 10, 80)
        held_s.append((held, (reached - before) * TOKEN_S))
    assert outcome.held_token_s == pytest.approx(sum(size * time for size, time in held_s))
    assert outcome.held_at_admission_token_s == pytest.approx(60 * (PREFILL_S + 80 * TOKEN_S))
