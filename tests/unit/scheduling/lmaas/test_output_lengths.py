"""The lengths of the newest answers against numpy over the window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quantiles import LEVELS
from gateway.scheduling.lmaas.output_lengths import (
    ANSWERS_PER_UPDATE,
    MAX_ANSWERS,
    MIN_ANSWERS,
    OutputLengths,
)


def told(lengths: list[int]) -> tuple[OutputLengths, list[bool]]:
    marginal = OutputLengths()
    return marginal, [marginal.add(each) for each in lengths]


def test_nothing_is_known_of_a_few_answers() -> None:
    marginal, new = told([7] * (MIN_ANSWERS - 1))
    assert marginal.quantiles is None
    assert not any(new)
    assert marginal.add(7)
    assert marginal.quantiles == (7.0,) * 6


@given(st.integers(MIN_ANSWERS, 3 * MAX_ANSWERS), st.integers(0, 1_000))
def test_quantiles_are_those_of_the_newest_answers(answers: int, seed: int) -> None:
    lengths = (100 * np.random.default_rng(seed).pareto(1.5, answers)).astype(int)
    marginal, new = told(lengths.tolist())
    looked = answers - answers % ANSWERS_PER_UPDATE
    newest = lengths[max(looked - MAX_ANSWERS, 0) : looked]
    assert marginal.quantiles == pytest.approx(np.quantile(newest, LEVELS).tolist())
    assert marginal.quantiles == tuple(sorted(marginal.quantiles or ()))
    assert [n for n, each in enumerate(new, 1) if each] == [
        *range(MIN_ANSWERS, answers + 1, ANSWERS_PER_UPDATE)
    ]


def test_long_answers_of_an_hour_ago_are_forgotten() -> None:
    marginal, _ = told([1_000] * MAX_ANSWERS + [3] * MAX_ANSWERS)
    assert marginal.quantiles == (3.0,) * 6
