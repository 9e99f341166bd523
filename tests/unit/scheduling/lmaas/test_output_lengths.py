"""The quantiles of recent answers against numpy over the window."""

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


def filled(lengths: list[int]) -> tuple[OutputLengths, list[bool]]:
    window = OutputLengths()
    return window, [window.add(each) for each in lengths]


def test_few_answers_give_no_quantiles() -> None:
    window, new = filled([7] * (MIN_ANSWERS - 1))
    assert window.quantiles is None
    assert not any(new)
    assert window.add(7)
    assert window.quantiles == (7.0,) * 6


@given(st.integers(MIN_ANSWERS, 3 * MAX_ANSWERS), st.integers(0, 1_000))
def test_quantiles_are_those_of_the_newest_answers(answers: int, seed: int) -> None:
    lengths = (100 * np.random.default_rng(seed).pareto(1.5, answers)).astype(int)
    window, new = filled(lengths.tolist())
    updated = answers - answers % ANSWERS_PER_UPDATE
    newest = lengths[max(updated - MAX_ANSWERS, 0) : updated]
    assert window.quantiles == pytest.approx(np.quantile(newest, LEVELS).tolist())
    assert window.quantiles == tuple(sorted(window.quantiles or ()))
    assert [n for n, each in enumerate(new, 1) if each] == [
        *range(MIN_ANSWERS, answers + 1, ANSWERS_PER_UPDATE)
    ]


def test_old_answers_leave_the_window() -> None:
    window, _ = filled([1_000] * MAX_ANSWERS + [3] * MAX_ANSWERS)
    assert window.quantiles == (3.0,) * 6
