"""Remaining lengths against the survival function written out for one length at a time."""

from collections.abc import Callable
from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quantiles import LEVELS, MEDIAN, P90
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import Quantiles, RunningSequence

MakeRunning = Callable[..., RunningSequence]
MAX_TOKENS = 300
quantiles = st.lists(st.integers(1, MAX_TOKENS), min_size=6, max_size=6).map(
    lambda drawn: tuple(float(tokens) for tokens in sorted(drawn))
)
generated = st.integers(0, MAX_TOKENS - 1)


def survival(length: int, drawn: Quantiles) -> float:
    """P(N ≥ length), by a walk along the pieces."""
    if length > MAX_TOKENS:
        return 0.0
    low = max(2 * log(drawn[0]) - log(drawn[MEDIAN]), 0.0)
    points = [(low, 0.0)]
    points += [(log(q), -log(1 - tau)) for q, tau in zip(drawn, LEVELS, strict=True)]
    place = log(length)
    if place <= low + 1e-12:
        return 1.0
    for (start, before), (end, after) in pairwise(points):
        if place <= end + 1e-12:
            share = (place - start) / (end - start)
            return exp(-(before + share * (after - before)))
    rate = log(2) / max(log(drawn[-1]) - log(drawn[P90]), log(1.05))
    return 0.05 * exp(-rate * (place - log(drawn[-1])))


def still_running(horizon: int, spent: int, drawn: Quantiles) -> float:
    if horizon <= 1:
        return 1.0
    return min(survival(spent + horizon, drawn) / survival(spent + 1, drawn), 1.0)


@given(quantiles, generated)
def test_survival_is_conditional_on_the_generated_tokens(
    a_sequence: MakeRunning, drawn: Quantiles, spent: int
) -> None:
    sequence = a_sequence(quantiles=drawn, generated=spent, max_tokens=MAX_TOKENS)
    horizons = np.arange(0.0, MAX_TOKENS + 3)
    survival = LengthDistributions.of([sequence]).survival(horizons)[0]
    exact = [still_running(step, spent, drawn) for step in range(MAX_TOKENS - spent + 1)]
    assert survival[: len(exact)] == pytest.approx(exact, rel=1e-6, abs=1e-12)
    assert not survival[len(exact) :].any()


@given(quantiles, generated, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_remaining_quantile_has_its_survival_probability(
    a_sequence: MakeRunning, drawn: Quantiles, spent: int, level: float
) -> None:
    lengths = LengthDistributions.of(
        [a_sequence(quantiles=drawn, generated=spent, max_tokens=MAX_TOKENS)]
    )
    tokens = float(lengths.remaining_quantile(level)[0])
    before, after = lengths.survival(np.array([max(np.floor(tokens), 1.0), np.floor(tokens) + 2]))[
        0
    ]
    assert 1 <= tokens <= MAX_TOKENS - spent
    assert after <= 1 - level + 1e-6
    assert before >= 1 - level - 1e-6


def test_fresh_sequence_keeps_its_predicted_quantiles(a_sequence: MakeRunning) -> None:
    drawn = (20.0, 30.0, 50.0, 80.0, 120.0, 150.0)
    lengths = LengthDistributions.of([a_sequence(quantiles=drawn, max_tokens=MAX_TOKENS)])
    found = [float(lengths.remaining_quantile(float(level))[0]) for level in LEVELS]
    assert found == pytest.approx(drawn)


def test_certain_length_survives_to_its_end_and_no_further(a_sequence: MakeRunning) -> None:
    sequence = a_sequence(quantiles=(100.0,) * 6, generated=60, max_tokens=MAX_TOKENS)
    survival = LengthDistributions.of([sequence]).survival(np.array([0.0, 1.0, 40.0, 41.0]))[0]
    assert survival[:3] == pytest.approx(1.0)
    assert survival[3] <= 0.05


def test_no_sequences_give_an_empty_array() -> None:
    assert LengthDistributions.of([]).survival(np.array([0.0, 1.0])).shape == (0, 2)
