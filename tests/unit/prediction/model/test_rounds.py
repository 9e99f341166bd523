"""The number of boosting rounds of the quantile heads."""

import lightgbm
import numpy as np
import pytest

from gateway.prediction.model import trees
from gateway.prediction.model.trees import (
    MIN_ROUNDS,
    LeftOut,
    Targets,
    cross_fit,
    fit_trees,
    left_out_parts,
)
from gateway.quantiles import LEVELS, MEDIAN

ROWS = 900


def left_out(table: np.ndarray, targets: Targets) -> LeftOut:
    return cross_fit(table, targets, left_out_parts(len(table)), threads=1)


def rounds_of(target: np.ndarray, table: np.ndarray) -> set[int]:
    targets = Targets(np.arange(len(table)), target, np.ones(len(table)))
    found = fit_trees(table, targets, left_out(table, targets).rounds, threads=1)
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
    few = table[:90].copy()
    assert max(rounds_of(few[:, 0].copy(), few)) == MIN_ROUNDS


def test_every_request_is_left_out_once_if_there_are_few(table: np.ndarray) -> None:
    targets = Targets(np.arange(ROWS), table[:, 0].astype(float), np.ones(ROWS))
    found = left_out(table, targets)
    assert sorted(found.rows.tolist()) == list(range(ROWS))
    assert found.quantiles.shape == (ROWS, len(LEVELS))


@pytest.mark.parametrize("rows", [1, 5, 19])
def test_of_too_few_requests_none_is_left_out(table: np.ndarray, rows: int) -> None:
    targets = Targets(np.arange(rows), np.zeros(rows), np.ones(rows))
    found = left_out(table[:rows], targets)
    assert found.quantiles.shape == (0, len(LEVELS))
    assert len(found.rows) == 0


def test_of_many_requests_some_are_left_out(
    table: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "MIN_LEFT_OUT_ROWS", ROWS // 4)
    targets = Targets(np.arange(ROWS), table[:, 0].astype(float), np.ones(ROWS))
    assert len(left_out(table, targets).rows) == 2 * ROWS // trees.FOLDS


def test_copies_of_a_request_are_left_out_together() -> None:
    table = np.arange(300, dtype=np.float32)[:, None]
    requests = np.repeat(np.arange(300), 3)
    luck = np.random.default_rng(1).normal(size=300)  # a request's own, which no other shows
    targets = Targets(requests, np.repeat(luck, 3), np.ones(900))
    found = left_out(table, targets)
    medians = found.quantiles[:, MEDIAN]
    assert abs(np.corrcoef(medians, luck[found.rows])[0, 1]) < 0.3
