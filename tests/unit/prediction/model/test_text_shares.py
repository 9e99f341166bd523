from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.model.text_shares import SHARES, blend, choose_shares, share_losses
from gateway.quantiles import LEVELS

APP, OTHER, NEW = UUID(int=1), UUID(int=2), UUID(int=3)
NORMAL = np.array([-1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])


def shares_of(gain: float, rows: int, seed: int = 1) -> tuple[float, dict[UUID, float]]:
    """Of an app whose text parts know `gain` of the deviation from its line, and of another's 0."""
    random = np.random.default_rng(seed)
    known, other = random.normal(size=(2, 2 * rows))
    signal = np.where(np.arange(2 * rows) < rows, gain, 0.0)
    lengths = signal * known + np.sqrt(1 - signal**2) * other
    line = np.tile(NORMAL, (2 * rows, 1))
    guess = np.where(np.arange(2 * rows) < rows, gain * known, 0.4 * known)
    width = np.sqrt(1 - gain**2)
    full = guess[:, None] + width * NORMAL
    losses = share_losses(line, full, lengths[:, None])
    every = np.arange(2 * rows)
    return choose_shares(losses, np.ones(2 * rows), {APP: every[:rows], OTHER: every[rows:]})


def test_text_parts_that_know_much_count_fully() -> None:
    _, shares = shares_of(0.8, 400)
    assert shares[APP] >= 0.9


def test_text_parts_that_know_nothing_do_not_count() -> None:
    _, shares = shares_of(0.8, 400)
    assert shares[OTHER] <= 0.1


@pytest.mark.parametrize("seed", range(8))
def test_few_rows_without_evidence_leave_the_line(seed: int) -> None:
    random = np.random.default_rng(seed)
    line = np.tile(NORMAL, (30, 1))
    full = line + random.normal(0, 0.5, (30, 1))
    losses = share_losses(line, full, random.normal(size=(30, 1)))
    share, _ = choose_shares(losses, np.ones(30), {APP: np.arange(30)})
    assert share <= 0.3


def test_without_rows_the_line_serves() -> None:
    assert choose_shares(np.zeros((0, len(SHARES))), np.ones(0), {}) == (0.0, {})


def test_an_app_with_few_rows_has_nearly_the_share_of_all() -> None:
    losses = np.tile(np.linspace(1.0, 0.5, len(SHARES)), (200, 1))
    share, shares = choose_shares(losses, np.ones(200), {APP: np.arange(2)})
    assert share == shares[APP] == 1.0


@given(st.lists(st.floats(-9, 9), min_size=6, max_size=6), st.floats(0, 1))
def test_blended_quantiles_ascend_between_both(full: list[float], share: float) -> None:
    line, other = NORMAL[None], np.array([full])
    blended = blend(line, other, np.array([share]))[0]
    assert (np.diff(blended) >= 0).all()
    low, high = np.minimum(line, np.sort(other)), np.maximum(line, np.sort(other))
    assert (blended >= low[0] - 1e-9).all()
    assert (blended <= high[0] + 1e-9).all()
    assert len(blended) == len(LEVELS)
