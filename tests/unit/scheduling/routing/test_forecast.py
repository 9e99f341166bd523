"""Predicted ends against sums over every step and every sequence."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from gateway.scheduling.routing.forecast import WorkForecast, linear

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
FAST = LinearStepTime(0.01, 1e-4, 5e-4, 1e-6, 1e-8)
SLOW = LinearStepTime(0.02, 2e-4, 1e-3, 2e-6, 2e-8)
COSTS = [FAST, SLOW, FAST]
sizes = st.tuples(st.integers(1, 400), st.integers(1, 199), st.integers(0, 198))
engines_of_sizes = st.lists(st.lists(sizes, max_size=5), min_size=3, max_size=3)


def priced() -> WorkForecast:
    forecast = WorkForecast(len(COSTS))
    for engine, cost in enumerate(COSTS):
        forecast.price(engine, EngineCost(cost, step_tokens=512))
    return forecast


def seconds_of_every_step(
    request: QueuedRequest, others: Sequence[RunningSequence], known: int, cost: LinearStepTime
) -> tuple[float, float]:
    """A request's expected seconds on an engine, and what others take longer in sum."""
    steps = np.arange(1.0, request.max_tokens + 1)
    own = LengthDistributions.of([request.started()]).survival(steps)[0]
    size = request.prompt_tokens
    prompt_s = sum(
        cost.prompt_token_s + cost.prompt_read_s * (token + 0.5) for token in range(known, size)
    )
    own_s, others_s = prompt_s, 0.0
    for step, chance in zip(steps, own, strict=True):
        own_s += chance * (cost.step_s + cost.sequence_s + cost.kv_token_s * (size + step))
    for other in others:
        met = LengthDistributions.of([other]).survival(steps)[0] * own
        tokens = other.kv_tokens + steps
        own_s += float((met * (cost.sequence_s + cost.kv_token_s * tokens)).sum())
        others_s += float((met * (cost.sequence_s + cost.kv_token_s * (size + steps))).sum())
        others_s += prompt_s
    return own_s, others_s


@given(engines_of_sizes, st.integers(1, 400), st.integers(2, 200), st.data())
def test_predicted_end_is_the_sum_over_every_step(
    a_request: MakeRequest,
    a_sequence: MakeRunning,
    engines: list[list[tuple[int, int, int]]],
    prompt: int,
    generation: int,
    data: st.DataObject,
) -> None:
    request = a_request(prompt, generation)
    forecast, known = priced(), [data.draw(st.integers(0, prompt - 1)) for _ in COSTS]
    running = [
        [a_sequence(size, length, generated=min(done, length - 1)) for size, length, done in each]
        for each in engines
    ]
    for engine, sequences in enumerate(running):
        forecast.refresh(engine, sequences)
    ahead = forecast.ahead(request, known)
    for engine, (cost, sequences) in enumerate(zip(COSTS, running, strict=True)):
        own_s, others_s = seconds_of_every_step(request, sequences, known[engine], cost)
        assert ahead.own_s[engine] == pytest.approx(own_s, rel=0.06)
        assert ahead.others_s[engine] == pytest.approx(others_s, rel=0.08, abs=1e-6)


@given(st.lists(sizes, min_size=1, max_size=6), st.data())
def test_what_joined_and_left_leaves_the_forecast_as_it_was(
    a_request: MakeRequest,
    a_sequence: MakeRunning,
    running: list[tuple[int, int, int]],
    data: st.DataObject,
) -> None:
    forecast = priced()
    sequences = [
        a_sequence(size, length, generated=min(done, length - 1)) for size, length, done in running
    ]
    forecast.refresh(0, sequences)
    probe = a_request()
    before = forecast.ahead(probe, [0, 0, 0])
    joined = [a_request(data.draw(st.integers(1, 300))) for _ in range(3)]
    for each in joined:
        forecast.join(0, each, each.prompt_tokens)
    forecast.check()
    assert (forecast.ahead(probe, [0, 0, 0]).own_s > before.own_s - 1e-12).all()
    for each in joined:
        forecast.leave(0, each.id)
    forecast.leave(0, "unknown")
    forecast.check()
    assert forecast.ahead(probe, [0, 0, 0]).own_s == pytest.approx(before.own_s, rel=1e-9)


def test_prompts_ahead_delay_a_request_until_they_are_computed(a_request: MakeRequest) -> None:
    forecast, probe = priced(), a_request(prompt=10)
    idle = forecast.ahead(probe, [0, 0, 0]).own_s[0]
    forecast.join(0, a_request(prompt=5_000, generation=1, max_tokens=1), 0)
    waiting = forecast.ahead(probe, [0, 0, 0]).own_s[0]
    assert waiting - idle > 0.9 * FAST.prompt_token_s * 5_000
    forecast.advance(0, 20)
    later = forecast.ahead(probe, [0, 0, 0]).own_s[0]
    assert later - idle < 0.2 * (waiting - idle)


def test_sequence_that_goes_on_has_less_ahead(
    a_request: MakeRequest, a_sequence: MakeRunning
) -> None:
    forecast = priced()
    fresh = forecast.ahead(a_sequence(50, 100), [50, 50, 50]).own_s[0]
    nearly_done = forecast.ahead(a_sequence(50, 100, generated=95), [145, 145, 145]).own_s[0]
    assert nearly_done < fresh
    request = replace(a_request(50, 100), generated=95)
    assert forecast.ahead(request, [145, 145, 145]).own_s[0] == pytest.approx(nearly_done)


def test_slopes_of_a_linear_cost_are_its_coefficients() -> None:
    class Wrapped:
        def seconds(
            self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
        ) -> float:
            return FAST.seconds(prefill_tokens, sequences, kv_tokens, prompt_reads)

    found = linear(EngineCost(Wrapped(), step_tokens=512))
    assert found.step_s == pytest.approx(FAST.step_s)
    assert found.prompt_token_s == pytest.approx(FAST.prompt_token_s)
    assert found.sequence_s == pytest.approx(FAST.sequence_s)
    assert found.kv_token_s == pytest.approx(FAST.kv_token_s)
