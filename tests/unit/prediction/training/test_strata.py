from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.training.strata import (
    MAX_EXTRA_SHARE,
    MAX_HARD_RATE,
    NEWEST_SHARE,
    Quota,
    Stratum,
    allocate,
    newest_from,
    weights,
)

sizes = st.tuples(st.integers(0, 5_000), st.integers(0, 2_000)).filter(any)


@st.composite
def populations(draw: st.DrawFn) -> list[Stratum]:
    counts = draw(st.lists(sizes, min_size=1, max_size=12))
    return [Stratum(UUID(int=n), easy, hard) for n, (easy, hard) in enumerate(counts)]


def taken(quotas: list[Quota]) -> int:
    return sum(quota.easy + quota.hard for quota in quotas)


@given(populations(), st.integers(20, 4_000))
def test_quotas_keep_within_the_bound_and_within_what_there_is(
    strata: list[Stratum], max_rows: int
) -> None:
    quotas = allocate(strata, max_rows)
    assert taken(quotas) <= max_rows
    for stratum, quota in zip(strata, quotas, strict=True):
        assert 0 <= quota.easy <= stratum.easy
        assert 0 <= quota.core_hard <= quota.hard <= stratum.hard


@given(populations(), st.integers(20, 4_000))
def test_extra_hard_rows_are_bounded_in_all_and_for_each_app(
    strata: list[Stratum], max_rows: int
) -> None:
    quotas = allocate(strata, max_rows)
    assert sum(quota.hard - quota.core_hard for quota in quotas) <= MAX_EXTRA_SHARE * max_rows + 1
    assert all(quota.hard <= MAX_HARD_RATE * quota.core_hard for quota in quotas)


@given(populations(), st.integers(100, 4_000))
def test_rows_times_their_weights_are_the_population_of_every_app(
    strata: list[Stratum], max_rows: int
) -> None:
    for stratum, quota in zip(strata, allocate(strata, max_rows), strict=True):
        stands_for = 0.0
        for rows, read in ((stratum.easy, quota.easy), (stratum.hard, quota.hard)):
            assert read > 0 or rows == 0, "a part of the app can never be taken"
            stands_for += read * (rows / read) if read else 0.0
        assert stands_for == pytest.approx(stratum.rows)


def test_all_rows_are_taken_where_they_are_few() -> None:
    assert allocate([Stratum(UUID(int=1), 70, 30)], 100) == [Quota(70, 30, 30)]


def test_small_app_gives_more_of_its_rows_than_a_large_one() -> None:
    large, small = allocate(
        [Stratum(UUID(int=1), 900_000, 100_000), Stratum(UUID(int=2), 150, 50)], 10_000
    )
    assert small == Quota(150, 50, 50)
    assert large.easy + large.core_hard == pytest.approx(7_800, abs=2)
    assert large.hard == pytest.approx(780 + 2_000, abs=5)


def test_more_apps_than_rows_take_one_row_each_of_the_largest() -> None:
    strata = [Stratum(UUID(int=n), n + 1, 0) for n in range(100)]
    quotas = allocate(strata, 50)
    assert [quota.easy for quota in quotas] == [0] * 60 + [1] * 40


@given(st.lists(st.booleans(), min_size=10, max_size=300), st.integers(0, 1_000))
def test_newest_rows_hold_no_extra_ones_and_are_enough_to_judge(
    core_rows: list[bool], seed: int
) -> None:
    core = np.array(core_rows)
    at = np.random.default_rng(seed).permutation(len(core)).astype(np.float64)
    stays = core | (at < newest_from(at, core))
    ordered = core[stays][np.argsort(at[stays])]
    judged = round(NEWEST_SHARE * len(ordered))
    if core.sum() >= judged:
        assert ordered[len(ordered) - judged :].all()


def test_weighted_quantiles_of_a_draw_are_those_of_history() -> None:
    random = np.random.default_rng(1)
    lengths = np.concatenate((random.normal(100, 10, 90_000), random.normal(300, 10, 10_000)))
    (quota,) = allocate([Stratum(UUID(int=1), 90_000, 10_000)], 5_000)
    drawn = np.concatenate(
        (random.choice(lengths[:90_000], quota.easy), random.choice(lengths[90_000:], quota.hard))
    )
    weight = weights(
        np.repeat([90_000.0, 10_000.0], [quota.easy, quota.hard]),
        np.repeat([float(quota.easy), float(quota.hard)], [quota.easy, quota.hard]),
    )
    assert weight.mean() == pytest.approx(1)
    assert (weight * (drawn > 200)).sum() / weight.sum() == pytest.approx(0.1)
    assert (drawn > 200).mean() > 0.2
