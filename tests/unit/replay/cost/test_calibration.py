"""Calibration recovers the cost behind step times, or reports why it cannot."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import LmaasError
from gateway.replay.cost.calibration import TERMS, fit_cost, lag_steps
from gateway.replay.cost.model import LinearCost
from gateway.replay.cost.trials import MIX

COST = LinearCost(
    step_s=2e-3, prompt_token_s=5e-5, sequence_s=8e-5, kv_token_s=3e-7, prompt_read_s=6e-8
)


class Step(Struct, frozen=True):
    trial: str
    prefill_tokens: int
    prefill_reads: float
    sequences: int
    kv_tokens: int
    took_s: float
    gap_s: float | None


def seconds(prefill: int, reads: float, sequences: int, kv_tokens: int) -> float:
    counts = (1, prefill, reads, sequences, kv_tokens)
    return sum(getattr(COST, name) * count for name, count in zip(TERMS, counts, strict=True))


def trial(
    name: str,
    prefill: int,
    sequences: int,
    kv_tokens: int,
    noise: Callable[[], float] = lambda: 1,
    *,
    before: int = 0,
) -> list[Step]:
    """Twelve equal steps; the prompt has `before` tokens before those computed."""
    reads = prefill * (before + prefill / 2)
    times = [seconds(prefill, reads, sequences, kv_tokens) * noise() for _ in range(12)]
    return [Step(name, prefill, reads, sequences, kv_tokens, each, 1.02 * each) for each in times]


def designed(noise: Callable[[], float] = lambda: 1) -> list[Step]:
    """Steps of batches that decode at three lengths, and of prompts."""
    steps: list[Step] = []
    for batch in (1, 4, 16, 64):
        for length in (16, 128, 1024):
            steps += trial(f"{batch} at {length}", 0, batch, batch * length, noise)
    for prefill in (16, 64, 256, 512):
        steps += trial(f"prompts of {prefill}", prefill, 1, 32, noise)
    steps += trial("a long prompt", 512, 0, 0, noise, before=1024)
    return steps


def test_cost_is_recovered_from_exact_times() -> None:
    found = fit_cost(designed())
    for name in TERMS:
        assert getattr(found.cost, name) == pytest.approx(getattr(COST, name), rel=1e-6)
    assert found.fitted.r2 == pytest.approx(1)
    assert found.fitted.median_error == pytest.approx(0, abs=1e-6)
    assert found.seen == pytest.approx(1.02)
    assert found.mix is None


def test_cost_is_nearly_recovered_from_noisy_times() -> None:
    rng = Random(1)
    found = fit_cost(designed(lambda: rng.lognormvariate(0, 0.1)))
    for name in TERMS:
        assert getattr(found.cost, name) == pytest.approx(getattr(COST, name), rel=0.15)
    assert found.fitted.median_error < 0.1
    assert abs(found.fitted.bias) < 0.02


def test_skewed_noise_moves_the_sum_by_its_mean() -> None:
    rng = Random(2)
    found = fit_cost(designed(lambda: 1 + rng.expovariate(5)))  # 1.2 on average
    assert found.fitted.bias == pytest.approx(0, abs=0.04)
    assert found.cost.step_s == pytest.approx(1.2 * COST.step_s, rel=0.15)


def test_outliers_are_left_out() -> None:
    steps = designed()
    steps[5] = replace(steps[5], took_s=1.0)
    found = fit_cost(steps)
    assert found.hiccups == 1
    assert found.cost.step_s == pytest.approx(COST.step_s, rel=1e-6)


def test_first_step_after_a_rest_is_not_fitted() -> None:
    slow = Step("1 at 16", 16, 128, 0, 0, 0.5, None)
    assert fit_cost([slow, *designed()]).fitted.steps == len(designed())


def test_mix_is_predicted_and_not_fitted() -> None:
    mix = [replace(step, trial=MIX, took_s=1.1 * step.took_s) for step in designed()[::12]]
    found = fit_cost([*designed(), *mix])
    assert found.cost.step_s == pytest.approx(COST.step_s, rel=1e-6)
    assert found.mix is not None
    assert found.mix.bias == pytest.approx(1 / 1.1 - 1, rel=1e-6)


def test_fit_names_the_worst_step_group() -> None:
    steps = [
        replace(step, took_s=1.5 * step.took_s) if step.trial == "16 at 128" else step
        for step in designed()
    ]
    worst = fit_cost(steps).worst
    assert (worst.trial, worst.sequences, worst.steps) == ("16 at 128", 16, 12)
    assert worst.error > 0.2


def test_no_coefficient_is_negative() -> None:
    steps = [replace(step, took_s=1e-3 * step.prefill_tokens + 1e-3) for step in designed()]
    found = fit_cost(steps).cost
    assert found.kv_token_s >= 0
    assert found.sequence_s >= 0
    assert found.prompt_token_s == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "0 steps were timed"),
        (designed()[:30], "30 steps were timed"),
        (designed()[:144], "every step had 0 prompt tokens"),
        (
            [s for b in (1, 2, 4, 8) for s in trial(f"{b}", 8 * b, b, 64 * b)],
            "never varied independently",
        ),
        ([replace(step, took_s=0.0) for step in designed()], "step time is 0"),
    ],
)
def test_steps_that_do_not_determine_the_cost_are_refused(steps: list[Any], message: str) -> None:
    with pytest.raises(LmaasError, match=message):
        fit_cost(steps)


@pytest.mark.parametrize(
    ("waits", "submit_delay_s", "lag"),
    [
        ([], 0.0, 1),
        ([[2.0, 2.0]], 1.0, 1),
        ([[2.0, 2.0, 2.0]], 3.0, 1),  # the submission arrived in the second step
        ([[2.0]], 1.0, 0),
        ([[2.0]], 5.0, 0),
        ([[2.0, 2.0], [2.0, 2.0], [2.0] * 9], 1.0, 1),
    ],
)
def test_lag_counts_from_the_step_that_runs_on_arrival(
    waits: list[list[float]], submit_delay_s: float, lag: int
) -> None:
    assert lag_steps(waits, submit_delay_s) == lag
