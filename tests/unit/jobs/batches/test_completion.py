"""When a job will be done: the band of simulated jobs, and its edges."""

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.batches.progress.completion import (
    SAMPLES,
    Sample,
    expected_completion,
    pace_of,
    with_sample,
)

STEP_S = 5.0


def a_job(seed: int, spread: float, *, steps: int = 60, memory: float = 0.5) -> list[Sample]:
    """The samples of a whole job whose pace wanders, as with interactive traffic next to it."""
    random_ = random.Random(seed)
    samples, done, level = [(0.0, 0.0)], 0.0, 0.0
    noise = spread * math.sqrt(1 - memory**2)
    while done < steps * STEP_S * 10.0:
        level = memory * level + random_.gauss(0.0, noise)
        done += STEP_S * 10.0 * math.exp(level)
        samples.append((samples[-1][0] + STEP_S, done))
    return samples


def seen_of(whole: list[Sample], part: float) -> list[Sample]:
    """What is kept of a job's samples after a part of it."""
    seen: list[Sample] = []
    for at, done in whole[: max(3, int(part * len(whole)))]:
        seen = with_sample(seen, at, done)
    return seen


def test_band_covers_four_of_five_ends() -> None:
    """Over jobs of five and of fifteen minutes, steady and restless, at three times of each."""
    kinds = product((60, 180), (0.0, 0.5, 0.8), (0.15, 0.3), range(40))
    inside = total = 0
    for steps, memory, spread, seed in kinds:
        whole = a_job(seed, spread, steps=steps, memory=memory)
        for part in (0.25, 0.5, 0.75):
            seen = seen_of(whole, part)
            now, done = seen[-1]
            band = expected_completion(seen, whole[-1][1] - done, now, ahead=0.0, pace=None)
            assert band is not None
            inside += band.p10 <= whole[-1][0] <= band.p90
            total += 1
    assert 0.75 <= inside / total <= 0.85


def test_pace_in_wrong_units_cancels_out() -> None:
    """Predictions that are wrong by a factor change neither the band's place nor its width."""
    right = a_job(1, 0.3)[:10]
    wrong = [(at, 4.0 * done) for at, done in right]
    left = 3000.0 - right[-1][1]
    now = right[-1][0]
    of_right = expected_completion(right, left, now, ahead=0.0, pace=None)
    of_wrong = expected_completion(wrong, 4.0 * left, now, ahead=0.0, pace=None)
    assert of_right is not None
    assert of_wrong is not None
    assert of_wrong.p10 == pytest.approx(of_right.p10)
    assert of_wrong.p90 == pytest.approx(of_right.p90)


def test_job_without_a_pace_goes_by_the_engine_and_the_jobs_ahead() -> None:
    assert expected_completion([], 100.0, 0.0, ahead=0.0, pace=None) is None
    alone = expected_completion([], 100.0, 0.0, ahead=0.0, pace=10.0)
    behind = expected_completion([], 100.0, 0.0, ahead=300.0, pace=10.0)
    assert alone is not None
    assert behind is not None
    assert alone.p10 < 10.0 < alone.p90
    assert behind.p10 == pytest.approx(4 * alone.p10)


@given(st.lists(st.floats(0, 100), max_size=200))
def test_samples_are_bounded_and_keep_both_ends(steps: list[float]) -> None:
    samples: list[Sample] = []
    done = 0.0
    for number, step in enumerate(steps):
        done += step
        samples = with_sample(samples, float(number), done)
    assert len(samples) <= SAMPLES
    if steps:
        assert samples[0][0] == 0.0
        assert samples[-1] == (float(len(steps) - 1), done)
    pace = pace_of(samples)
    assert pace is None or pace > 0
    band = expected_completion(samples, 10.0, 1000.0, ahead=0.0, pace=1.0)
    assert band is not None
    assert 1000.0 <= band.p10 <= band.p90
