"""The head on hidden states: its left-out errors, what it finds, and batches of prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.prefill_head.head import PENALTIES, fit_head, fit_ridge
from benchmarks.prefill_head.run import Predicted, head_row, targets
from benchmarks.prefill_head.states import MAX_BATCH_TOKENS, batches
from gateway.quantiles import Floats

ROWS = 300


def answers(by_state: float) -> tuple[Floats, Predicted]:
    """States (n, 2 layers, 12) of which one direction of the second adds to the log length."""
    random = np.random.default_rng(2)
    states = random.normal(size=(ROWS, 2, 12))
    location = random.normal(4, 0.5, ROWS)
    logs = location + by_state * states[:, 1, 3] + random.normal(0, 0.5, ROWS)
    return states, Predicted(
        ids=[str(row) for row in range(ROWS)],
        fold=np.arange(ROWS) % 5,
        tokens=np.expm1(logs),
        location=location,
    )


def test_left_out_error_is_that_of_fits_without_each_row() -> None:
    random = np.random.default_rng(1)
    inputs = random.normal(size=(25, 4))
    targets_of = inputs @ np.array([1.0, -2.0, 0.0, 0.5]) + random.normal(size=25)
    found = fit_ridge(inputs, targets_of)
    errors = []
    for penalty in PENALTIES:
        own = []
        for row in range(25):
            others = np.delete(np.arange(25), row)
            # The mean is left out with the row; an unpenalised column of ones does the same.
            columns = np.column_stack([np.ones(24), inputs[others]])
            shrink = penalty * np.diag([0.0, 1.0, 1.0, 1.0, 1.0])
            weights = np.linalg.solve(columns.T @ columns + shrink, columns.T @ targets_of[others])
            own.append(targets_of[row] - weights @ [1.0, *inputs[row]])
        errors.append(np.mean(np.square(own)))
    assert found.left_out == pytest.approx(min(errors))


def test_head_finds_what_the_states_know_and_reads_few_numbers() -> None:
    states, ours = answers(by_state=0.5)
    row = head_row(("middle", "last"), None, states, ours)
    assert row["log-RMSE"] == pytest.approx(0.7, abs=0.06)
    assert row["with the head"] == pytest.approx(0.5, abs=0.06)
    assert 0.15 < row["low"] < row["lower by"] < row["high"]
    assert row["τ with the head"] > row["τ"]
    assert fit_head(states, ours.location, ours.residuals).numbers <= 128


def test_head_of_states_that_know_nothing_changes_little() -> None:
    states, ours = answers(by_state=0.0)
    row = head_row(("middle", "last"), 100, states, ours)
    assert abs(row["lower by"]) < 0.05
    assert [each.met for each in targets(row["lower by"], 0.001)] == [False, True]


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 2 * MAX_BATCH_TOKENS), max_size=30))
def test_batches_hold_every_prompt_once_and_are_bounded(lengths: dict[str, int]) -> None:
    found = list(batches(lengths))
    assert sorted(name for batch in found for name in batch) == sorted(lengths)
    for batch in found:
        padded = len(batch) * max(lengths[name] for name in batch)
        assert len(batch) == 1 or padded <= MAX_BATCH_TOKENS
