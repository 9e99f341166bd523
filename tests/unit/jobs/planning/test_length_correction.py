"""Corrections of predicted lengths, in simulated jobs whose true lengths are known."""

import heapq
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.planning.length_correction import (
    LineOutcomes,
    learn_correction,
    no_correction,
)
from gateway.quantiles import LEVELS, MEDIAN, Floats

NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
NO_LIMIT = 1_000_000
SEEDS = range(40)
PERCENT_25 = np.log(1.25)


def predicted(medians: Floats, spread: float, limit: int = NO_LIMIT) -> Floats:
    return np.clip(medians[:, None] * np.exp(spread * NORMAL), 1, limit)


def first_outcomes(
    seed: int,
    factors: Floats,
    *,
    ended: int = 50,
    spread: float = 0.5,
    limit: int = NO_LIMIT,
    slots: int = 60,
    labels: int = 1,
) -> LineOutcomes:
    """A job that is decoded in slots until some answers have ended, as its lines are known then.

    The predicted lengths of label i are factors[i] times the right ones.
    """
    random = np.random.default_rng(seed)
    lines = ended + slots
    label = random.integers(0, labels, lines)
    medians = np.exp(random.uniform(3, 6, lines))
    natural = np.maximum(1, np.round(medians * np.exp(spread * random.standard_normal(lines))))
    lengths = np.minimum(natural, limit)
    begun, done = np.zeros(lines), np.full(lines, np.inf)
    running: list[tuple[float, int]] = []
    now, line = 0.0, 0
    for _ in range(ended):
        while len(running) < slots:
            begun[line] = now
            heapq.heappush(running, (now + lengths[line], line))
            line += 1
        now, first = heapq.heappop(running)
        done[first] = now
    known = slice(line)
    finished = done[known] < np.inf
    return LineOutcomes(
        predicted(medians * factors[label], spread, limit)[known],
        np.where(finished, lengths[known], now - begun[known]).astype(np.int64),
        finished & (natural[known] <= limit),
        label[known] if labels > 1 else np.full(line, -1),
    )


def shifts(factor: float, **given: Any) -> Floats:
    """The error of the learned shift in each of several jobs."""
    outcomes = [first_outcomes(seed, np.array([factor]), **given) for seed in SEEDS]
    return np.array([learn_correction(each, 0).shifts[-1] + np.log(factor) for each in outcomes])


@pytest.mark.parametrize("factor", [0.25, 4.0])
@pytest.mark.parametrize("given", [{}, {"spread": 0.2}, {"limit": 400}, {"slots": 200}], ids=str)
def test_predictions_wrong_by_four_are_right_within_a_quarter_after_50_outcomes(
    factor: float, given: dict[str, Any]
) -> None:
    assert np.mean(np.abs(shifts(factor, **given)) < PERCENT_25) >= 0.95


@pytest.mark.parametrize("given", [{}, {"limit": 150}, {"slots": 200}, {"ended": 10}], ids=str)
def test_right_predictions_stay_right_though_short_answers_end_first(
    given: dict[str, Any],
) -> None:
    assert abs(shifts(1.0, **given).mean()) < 0.05


def test_running_lines_are_needed_to_be_unbiased() -> None:
    """What the first to end alone would say: that answers are half as long as predicted."""
    found = []
    for seed in SEEDS:
        outcomes = first_outcomes(seed, np.ones(1), spread=0.8, slots=200)
        logs = np.log(np.maximum(outcomes.generated, 1)) - np.log(outcomes.quantiles[:, MEDIAN])
        found.append(logs[outcomes.ended].mean())
    assert np.mean(found) < -0.5
    assert abs(shifts(1.0, spread=0.8, slots=200).mean()) < 0.05


def test_some_answers_twenty_times_too_long_move_little() -> None:
    for seed in SEEDS:
        outcomes = first_outcomes(seed, np.ones(1))
        generated = outcomes.generated.copy()
        generated[np.flatnonzero(outcomes.ended)[::20]] *= 20
        spoiled = LineOutcomes(outcomes.quantiles, generated, outcomes.ended, outcomes.labels)
        moved = learn_correction(spoiled, 0).shifts[-1] - learn_correction(outcomes, 0).shifts[-1]
        assert abs(moved) < 0.15


def test_label_with_outcomes_of_its_own_is_corrected_by_them() -> None:
    for seed in SEEDS:
        outcomes = first_outcomes(seed, np.array([4.0, 1.0]), ended=200, labels=2)
        errors = learn_correction(outcomes, 2).shifts[:2] + np.log([4.0, 1.0])
        assert (np.abs(errors) < PERCENT_25).all()


def test_label_without_outcomes_has_the_correction_of_the_job() -> None:
    found = learn_correction(first_outcomes(1, np.array([4.0, 4.0]), labels=2), 3)
    assert found.shifts[2] == found.shifts[-1]
    assert found.shifts[-1] == pytest.approx(-np.log(4), abs=PERCENT_25)


def test_one_outcome_moves_a_label_less_than_it_deviates() -> None:
    quantiles = predicted(np.full(41, 100.0), 0.5)
    usual = 100 * np.exp(0.5 * np.random.default_rng(1).standard_normal(40))
    generated = np.append(np.round(usual), 800).astype(np.int64)
    labels = np.append(np.full(40, 0), 1)
    found = learn_correction(LineOutcomes(quantiles, generated, np.ones(41, bool), labels), 2)
    assert abs(found.shifts[0]) < 0.15
    assert 0 < found.shifts[1] < np.log(8) / 2


@pytest.mark.parametrize("predicted_at_limit", [True, False])
def test_predictions_at_the_limit_are_learned_from_only_if_there_are_no_others(
    predicted_at_limit: bool,
) -> None:
    at_limit = predicted(np.full(50, 5_000.0), 0.5, 1_000)
    below = predicted(np.full(50, 100.0), 0.5, 1_000)
    quantiles = at_limit if predicted_at_limit else np.concatenate((at_limit, below))
    generated = np.concatenate((np.full(50, 250), np.full(50, 100)))[: len(quantiles)]
    ended, labels = np.ones(len(quantiles), bool), np.full(len(quantiles), -1)
    found = learn_correction(LineOutcomes(quantiles, generated, ended, labels), 0)
    expected = np.log(250 / 1_000) if predicted_at_limit else 0.0
    assert found.shifts[-1] == pytest.approx(expected, abs=0.1)


def test_spread_follows_the_outcomes() -> None:
    outcomes = first_outcomes(2, np.ones(1), spread=0.9, ended=300)
    narrow = LineOutcomes(
        predicted(outcomes.quantiles[:, MEDIAN], 0.3),
        outcomes.generated,
        outcomes.ended,
        outcomes.labels,
    )
    assert learn_correction(narrow, 0).stretches[-1] == pytest.approx(3, rel=0.25)


def test_job_without_outcomes_has_no_correction() -> None:
    nothing = LineOutcomes(np.zeros((0, 6)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, int))
    found = learn_correction(nothing, 2)
    assert found.shifts.tolist() == pytest.approx(no_correction(2).shifts.tolist(), abs=1e-9)
    just_started = LineOutcomes(
        predicted(np.full(5, 50.0), 0.5), np.zeros(5, int), np.zeros(5, bool), np.full(5, -1)
    )
    assert abs(learn_correction(just_started, 0).shifts[-1]) < 0.1


@given(
    st.lists(st.tuples(st.floats(1, 5_000), st.integers(0, 9_000), st.booleans()), max_size=20),
    st.integers(1, 5_000),
)
def test_corrected_quantiles_rise_within_the_limit(
    lines: list[tuple[float, int, bool]], limit: int
) -> None:
    quantiles = predicted(np.array([median for median, _, _ in lines]), 0.4)
    labels = np.arange(len(lines)) % 3 - 1
    generated = np.array([tokens for _, tokens, _ in lines], int)
    ended = np.array([end for _, _, end in lines], bool)
    found = learn_correction(LineOutcomes(quantiles, generated, ended, labels), 2)
    corrected = found.correct(quantiles, labels, np.full(len(lines), limit))
    assert (np.diff(corrected, axis=1) >= 0).all()
    assert ((corrected >= 1) & (corrected <= limit)).all()


def test_without_correction_quantiles_stay() -> None:
    quantiles = predicted(np.array([20.0, 300.0]), 0.4)
    same = no_correction(1).correct(quantiles, np.array([0, -1]), np.full(2, NO_LIMIT))
    assert same == pytest.approx(quantiles)


def test_only_a_shift_between_labels_changes_the_order() -> None:
    none = no_correction(2)
    common = learn_correction(first_outcomes(3, np.array([4.0, 4.0]), ended=200, labels=2), 2)
    apart = learn_correction(first_outcomes(3, np.array([4.0, 1.0]), ended=200, labels=2), 2)
    assert not common.reorders(none)
    assert apart.reorders(none)
    assert not apart.reorders(apart)
