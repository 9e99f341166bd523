"""A start is weighed in seconds: against its formulas, and a sum over every step."""

from collections.abc import Callable
from math import ceil, floor
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import STEPS_BETWEEN_DECISIONS, Capacity
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.admission.prices import (
    EngineCost,
    LinearStepTime,
    Preemption,
    Prices,
    prices,
)
from gateway.scheduling.requests import QueuedRequest, RunningSequence

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
seconds = st.floats(1e-6, 1e-1)
MAX_TOKENS = 12  # steps ahead that have an interval each

COST = EngineCost(LinearStepTime(0.02, 1e-4, 1e-3, 1e-6, 1e-9), step_tokens=512)


@given(seconds, seconds, st.floats(0, 100))
def test_break_even_is_where_the_tokens_until_then_are_worth_a_preemption(
    produced_s: float, step_s: float, now_s: float
) -> None:
    steps = Preemption(now_s, step_s).break_even_steps(produced_s)
    if produced_s <= step_s:
        assert steps == float("inf")
        return
    assume(steps < 1e6)
    assert produced_s * ceil(steps + 1) >= now_s + step_s * ceil(steps + 1)
    if steps > 1:
        assert produced_s * floor(steps - 1) < now_s + step_s * floor(steps - 1)


def test_free_preemption_is_worth_it_at_once() -> None:
    assert Preemption(0.0, 0.0).break_even_steps(0.01) == 0
    assert Preemption(0.0, 0.0).break_even_steps(0.0) == 0


def test_preemption_costs_its_tokens_again_and_the_memory_that_stands_idle() -> None:
    price = Prices(produced_s=0.01, lost_s=1e-4)
    assert price.preemption(300) == pytest.approx((0.03, 1e-4))
    whole = price.preemption(300, size=3.0, end_steps=5.0)
    assert whole.now_s == pytest.approx(0.03 + 0.01 * 5 * 9)


def test_token_is_worth_the_share_of_a_step_that_does_not_grow_with_sequences() -> None:
    found = prices(COST, 10, 20_000)
    assert found.produced_s == pytest.approx(0.02 / 10)
    own = found.produced_s / 502
    assert found.lost_s == pytest.approx(1e-4 + 1e-9 * 1_000 + own)


def test_swapped_token_is_copied_twice() -> None:
    cost = EngineCost(COST.step_time, 512, swap_token_s=3e-6)
    assert prices(cost, 10, 20_000).lost_s == pytest.approx(6e-6)


def test_token_that_is_computed_in_less_time_than_copied_is_computed() -> None:
    dear = EngineCost(COST.step_time, 512, swap_token_s=1.0)
    assert prices(dear, 10, 20_000) == prices(COST, 10, 20_000)


def test_idle_engine_has_prices() -> None:
    assert prices(COST, 0, 0.0) == prices(COST, 1, 0.0)


def pays_at_every_step(
    request: QueuedRequest,
    running: list[RunningSequence],
    pages: int,
    page: int,
    since: int,
    cost: EngineCost,
    end_steps: float | None,
) -> tuple[bool, float]:
    """Whether a start pays, by its definition; and how near to a step at which it is a draw."""
    ahead = np.arange(since, since + MAX_TOKENS + 1, dtype=float)
    mean, variance = np.zeros(len(ahead)), np.zeros(len(ahead))
    for sequence in running:
        alive = LengthDistributions.of([sequence]).survival(ahead)[0]
        tokens = np.minimum(sequence.generated + ahead, sequence.max_tokens)
        held = np.ceil((sequence.prompt_tokens + tokens) / page)
        mean, variance = mean + held * alive, variance + held**2 * alive * (1 - alive)
    price = prices(cost, len(running), mean[0] * page)
    remainders = [
        float(LengthDistributions.of([each]).remaining_quantile(0.5)[0]) for each in running
    ]
    tokens = request.prompt_tokens
    if max(remainders) > min(request.median, request.max_tokens) * (1 + 1e-9):
        tokens = max(  # the larger of equals
            each.kv_tokens
            for each, remaining in zip(running, remainders, strict=True)
            if remaining >= max(remainders) * (1 - 1e-9)
        )
    size = ceil(tokens / page) * len(running) / max(mean[0], 1.0)
    loss = price.preemption(tokens, size, end_steps or 0.0)
    next_end = STEPS_BETWEEN_DECISIONS if end_steps is None else max(end_steps, 1.0)
    alive = LengthDistributions.of([request.started()]).survival(
        np.arange(MAX_TOKENS + 1, dtype=float)
    )[0]
    pays, nearest = True, float("inf")
    for step in range(1, request.max_tokens + 1):
        own = ceil((request.prompt_tokens + step) / page)
        use = mean[step] + own * alive[step]
        deviation = (variance[step] + own**2 * alive[step] * (1 - alive[step]) + 1e-12) ** 0.5
        exceeded = 1 - NormalDist().cdf((pages + 0.5 - use) / deviation)
        generated = alive[1 : max(step, min(floor(next_end), request.max_tokens)) + 1].sum()
        lost_s = (loss.now_s + loss.step_s * step) * alive[step] * exceeded
        pays = pays and lost_s <= price.produced_s * generated
        nearest = min(nearest, abs(lost_s / (price.produced_s * generated) - 1))
    return pays, nearest


def after_an_end(
    admission: FuturePeak, sequence: RunningSequence, steps: int | None, since: int
) -> float | None:
    """Let a sequence end after `steps`; the mean of the steps once `since` more were run."""
    if steps is None:
        return None
    admission.refresh([sequence])
    admission.advance(steps)
    admission.leave(sequence.id)
    return float(steps + since)


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, MAX_TOKENS), st.integers(0, 8)),
        min_size=1,
        max_size=6,
    ),
    st.tuples(st.integers(1, 60), st.integers(1, MAX_TOKENS)),
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(0, 2),
    st.floats(1e-5, 1e-2),
    st.integers(0, 16),
    st.none() | st.integers(0, 40),
)
def test_start_pays_if_it_does_at_every_step(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    drawn: list[tuple[int, int, int]],
    newcomer: tuple[int, int],
    pages: int,
    page: int,
    since: int,
    prompt_token_s: float,
    binding: int,
    steps_to_end: int | None,
) -> None:
    running = [
        a_sequence(prompt, max(done + 1, length), max_tokens=60, generated=done)
        for prompt, length, done in drawn
    ]
    request = a_request(newcomer[0], newcomer[1], max_tokens=MAX_TOKENS)
    cost = EngineCost(LinearStepTime(0.02, prompt_token_s, 0.0, 0.0), step_tokens=512)
    admission = FuturePeak()
    admission.price(cost)
    admission.resize(Capacity(pages, page))
    end_steps = after_an_end(admission, a_sequence(1, 1), steps_to_end, since)
    admission.refresh(running)
    admission.advance(since)
    admission._binding_interval = binding
    pays, nearest = pays_at_every_step(request, running, pages, page, since, cost, end_steps)
    assume(nearest > 1e-3)
    fits = admission._ahead.mean[since] + ceil(newcomer[0] / page) <= pages
    assert admission.admit([request]) == (fits and pays)


def test_memory_is_overcommitted_where_recomputing_is_cheap(
    a_sequence: MakeRunning, a_request: MakeRequest
) -> None:
    started = {}
    for prompt_token_s in (1e-6, 1e-1):
        admission = FuturePeak()
        admission.price(EngineCost(LinearStepTime(0.02, prompt_token_s, 0.0, 0.0), 512))
        admission.resize(Capacity(1_000, 1))
        admission.refresh([a_sequence(100, 100, max_tokens=200) for _ in range(4)])
        started[prompt_token_s] = admission.admit(
            [a_request(50, 100, max_tokens=200) for _ in range(20)]
        )
    assert started[1e-1] < 5 < started[1e-6]


def test_engine_reserves_until_a_preemption_would_take_back_an_eighth_of_the_gain(
    a_request: MakeRequest,
) -> None:
    admission = FuturePeak()
    admission.resize(Capacity(1_000, 1))
    request = a_request(300, 100, max_tokens=200)
    assert admission.reserve(request) == 100
    admission.price(EngineCost(LinearStepTime(0.02, 2e-4, 0.0, 0.0), 512))
    admission.force(request)
    price, steps = admission._prices, admission.reserve(request)
    break_even = price.preemption(300).break_even_steps(price.produced_s)
    assert steps == ceil(8 * break_even) == 30
    gain_s = (price.produced_s - price.lost_s) * steps
    assert price.lost_s * 300 == pytest.approx(gain_s / 8, rel=0.05)
    admission.price(EngineCost(LinearStepTime(0.02, 1.0, 0.0, 0.0), 512))
    assert admission.reserve(request) == 100
    admission.price(None)
    assert admission.reserve(request) == 100
