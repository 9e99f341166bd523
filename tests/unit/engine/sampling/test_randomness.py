"""Random numbers by seed and position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sampling.randomness import uniforms

seeds = st.integers(-(2**70), 2**70)
positions = st.integers(0, 2**20)


@given(st.lists(st.tuples(seeds, positions), min_size=1, max_size=20))
def test_uniforms_lie_in_the_half_open_unit_interval(keys: list[tuple[int, int]]) -> None:
    numbers = uniforms(*zip(*keys, strict=True))
    assert ((numbers >= 0) & (numbers < 1)).all()


@pytest.mark.parametrize(
    ("seed", "position", "number"),
    [
        (0, 0, 0.6524484863740321),
        (0, 1, 0.1663964394676607),
        (7, 3, 0.9579187413704255),
        (2**64 + 7, 3, 0.9579187413704255),
        (-1, 12, 0.9634305191442032),
        (2**63, 5, 0.2542675999545876),
        (3 - 2**70, 2**20, 0.8005723562956331),
    ],
)
def test_a_seed_and_position_give_a_fixed_number(seed: int, position: int, number: float) -> None:
    assert uniforms([seed], [position]).tolist() == [number]


@given(st.lists(st.tuples(seeds, positions), min_size=1, max_size=9))
def test_a_number_does_not_depend_on_the_other_pairs(keys: list[tuple[int, int]]) -> None:
    alone = [uniforms([seed], [position])[0] for seed, position in keys]
    assert uniforms(*zip(*keys, strict=True)).tolist() == alone


def test_neighbouring_seeds_and_positions_give_uncorrelated_numbers() -> None:
    keys = [(seed, position) for seed in range(60) for position in range(60)]
    table = uniforms(*zip(*keys, strict=True)).reshape(60, 60)
    assert len(np.unique(table)) == 3600
    assert table.mean() == pytest.approx(0.5, abs=0.02)
    for before, after in ((table[:, :-1], table[:, 1:]), (table[:-1], table[1:])):
        assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.05
