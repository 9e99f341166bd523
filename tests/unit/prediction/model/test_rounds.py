"""The number of boosting rounds of the quantile heads."""

import lightgbm
import numpy as np
import pytest

from gateway.prediction.model import trees
from gateway.prediction.model.trees import MAX_ROUNDS, MIN_ROUNDS, fit_trees

ROWS = 900


def rounds_of(target: np.ndarray, table: np.ndarray) -> set[int]:
    found = fit_trees(table, target, np.ones(len(table)), threads=1)
    return {lightgbm.Booster(model_str=text).num_trees() for text in found}


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ROWS, 12)).astype(np.float32)


def test_lengths_that_do_not_depend_on_the_features_get_few_rounds(table: np.ndarray) -> None:
    noise = np.random.default_rng(4).normal(size=ROWS)
    (rounds,) = rounds_of(noise, table)
    assert rounds < MIN_ROUNDS / 2


def test_lengths_that_depend_on_them_keep_their_rounds(table: np.ndarray) -> None:
    assert rounds_of(4.0 * table[:, 0] + table[:, 1], table) == {ROWS // 10}


def test_too_few_rows_to_hold_out_keep_the_least_number(table: np.ndarray) -> None:
    few = table[:60]
    assert rounds_of(few[:, 0], few) == {MIN_ROUNDS}


def test_many_rows_are_not_checked(table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MIN_SURE_ROWS", ROWS)
    monkeypatch.setattr(trees, "ROWS_PER_ROUND", 1)
    assert rounds_of(np.random.default_rng(4).normal(size=ROWS), table) == {MAX_ROUNDS}


def test_copies_of_a_request_are_held_out_together() -> None:
    requests = np.repeat(np.arange(100), 3)
    held_out = trees._held_out(requests).reshape(100, 3)
    assert (held_out.all(axis=1) == held_out.any(axis=1)).all()
    assert held_out.any(axis=1).sum() == 20
