"""Served predictions of a version while outcomes arrive."""

import math
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.adaptation.adaptation import NOTED_COLUMNS, Adaptation, ScoredOutcome
from gateway.quantiles import P90

APP = UUID(int=1)
NORMAL_QUANTILES = (-1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449)
MAX_TOKENS = 100_000


def levels(median: float, spread: float = 0.3) -> list[float]:
    return [median + spread * deviation for deviation in NORMAL_QUANTILES]


def teach(
    adaptation: Adaptation, count: int, *, factor: float = 1.0, noise: float = 0.3, seed: int = 0
) -> list[bool]:
    """Learn outcomes at a factor of the median 100; whether the 0.9 quantile covered each."""
    random, covered = np.random.default_rng(seed), []
    for _ in range(count):
        scored = levels(math.log(100))
        tokens = round(100 * factor * math.exp(random.normal(0, noise)))
        covered.append(tokens <= adaptation.serve(APP, 3.5, scored, MAX_TOKENS)[P90])
        adaptation.learn(an_outcome(scored, tokens))
    return covered


def an_outcome(scored: list[float], tokens: int, *, censored: bool = False) -> ScoredOutcome:
    return ScoredOutcome(
        APP, 3.5, tuple(scored[place] for place in NOTED_COLUMNS), tokens, censored
    )


def test_first_request_gets_the_raw_prediction() -> None:
    scored = levels(4.0, spread=0.6)
    assert Adaptation().corrected(APP, 3.0, scored) == pytest.approx(scored)
    assert Adaptation().serve(APP, 3.0, scored, MAX_TOKENS) == pytest.approx(tuple(np.exp(scored)))


def test_doubled_answers_are_covered_again() -> None:
    adaptation = Adaptation([APP])
    teach(adaptation, 600)
    teach(adaptation, 60, factor=2.0, seed=1)
    assert np.mean(teach(adaptation, 400, factor=2.0, seed=2)) == pytest.approx(0.9, abs=0.03)
    assert adaptation.shift(APP, 3.5, levels(math.log(100))) == pytest.approx(math.log(2), abs=0.1)


def test_unseen_app_is_covered_before_its_calibration() -> None:
    adaptation = Adaptation()
    teach(adaptation, 20, noise=0.9)
    served = adaptation.corrected(APP, 3.5, levels(math.log(100)))
    assert 2.0 < (served[4] - served[2]) / (1.2816 * 0.3) < 4.0


def test_outcome_cut_off_below_the_median_corrects_nothing() -> None:
    adaptation = Adaptation()
    adaptation.learn(an_outcome(levels(5.0), 20, censored=True))
    assert adaptation.shift(APP, 3.5, levels(5.0)) == 0.0
    adaptation.learn(an_outcome(levels(5.0), 400, censored=True))
    assert adaptation.shift(APP, 3.5, levels(5.0)) > 0.0


def test_served_quantiles_rise_and_stay_within_max_tokens() -> None:
    adaptation = Adaptation()
    teach(adaptation, 100, factor=8.0, noise=1.5)
    quantiles = adaptation.serve(APP, 9.0, levels(9.0), 500)
    assert list(quantiles) == sorted(quantiles)
    assert quantiles[0] >= 1.0
    assert quantiles[-1] <= 500.0


@pytest.mark.parametrize("reads_embeddings", [True, False])
def test_predictions_of_each_stage_are_covered_by_outcomes_of_their_own(
    reads_embeddings: bool,
) -> None:
    """The second knows which of two kinds an answer is, the first is off by half of a log unit."""
    adaptation, random = Adaptation([APP]), np.random.default_rng(5)
    adaptation.two_stages = reads_embeddings
    covered: dict[bool, list[bool]] = {True: [], False: []}
    for number in range(1_500):
        kind = random.choice([-0.5, 0.5])
        stages = {True: levels(math.log(100), 0.2), False: levels(math.log(100) + kind, 0.2)}
        if not reads_embeddings:
            stages[False] = stages[True]
        tokens = round(100 * math.exp(kind + random.normal(0, 0.2)))
        for first, scored in stages.items():
            served = adaptation.serve(APP, 3.5, scored, MAX_TOKENS, first=first)
            if number >= 200:
                covered[first].append(tokens <= served[P90])
        adaptation.learn_first(an_outcome(stages[True], tokens))
        adaptation.learn(an_outcome(stages[False], tokens))
    for share in map(np.mean, covered.values()):
        assert share == pytest.approx(0.9, abs=0.02)
