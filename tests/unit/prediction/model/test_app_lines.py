from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.model.app_lines import fit_lines, impute_censored

LONG, SHORT, YOUNG = UUID(int=1), UUID(int=2), UUID(int=3)


def proportional(rows: int, ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    log_uil = random.uniform(1, 5, rows)
    return log_uil, np.log(ratio) + log_uil + random.normal(0, 0.1, rows)


def test_each_app_gets_its_own_ratio() -> None:
    x1, y1 = proportional(300, 4.0, 1)
    x2, y2 = proportional(300, 0.5, 2)
    apps = [LONG] * 300 + [SHORT] * 300
    _, lines = fit_lines(
        apps, np.concatenate((x1, x2)), np.concatenate((y1, y2)), np.zeros(600, bool)
    )
    for app, ratio in ((LONG, 4.0), (SHORT, 0.5)):
        at_20 = lines[app].intercept + lines[app].slope * np.log(20)
        assert np.exp(at_20) == pytest.approx(20 * ratio, rel=0.1)
        assert lines[app].spread < 0.35


def test_app_with_few_rows_stays_near_the_pooled_line() -> None:
    x, y = proportional(300, 1.0, 1)
    pooled, lines = fit_lines(
        [LONG] * 300 + [YOUNG], np.append(x, 3.0), np.append(y, 8.0), np.zeros(301, bool)
    )
    at_pooled = pooled.intercept + pooled.slope * 3
    at_young = lines[YOUNG].intercept + lines[YOUNG].slope * 3
    assert at_pooled < at_young < at_pooled + 0.15 * (8 - at_pooled)


def test_line_through_censored_lengths_equals_the_uncensored_one() -> None:
    x, y = proportional(2_000, 2.0, 1)
    y += np.random.default_rng(9).normal(0, 0.5, 2_000)
    cap = np.random.default_rng(5).uniform(2, 7, 2_000)
    censored = y > cap
    assert censored.mean() > 0.2
    pooled, _ = fit_lines([LONG] * 2_000, x, np.minimum(y, cap), censored)
    dropped, _ = fit_lines(
        [LONG] * int((~censored).sum()), x[~censored], y[~censored], censored[~censored]
    )
    at = [line.intercept + line.slope * 4 for line in (pooled, dropped)]
    assert at[0] == pytest.approx(np.log(2) + 4, abs=0.12)
    assert at[1] < at[0] - 0.05


def test_censored_residual_is_imputed_from_those_above_it() -> None:
    residuals = np.array([0.0, 1.0, 2.0, 3.0, 1.5])
    censored = np.array([False, False, False, False, True])
    draws = impute_censored(residuals, censored, draws=4)
    assert (draws[:4] == residuals[:4, None]).all()
    assert draws[4].tolist() == [2.0, 2.0, 3.0, 3.0]
    assert impute_censored(residuals, censored, draws=1)[4, 0] == pytest.approx(2.5)


def test_censored_residual_above_all_stays_its_own_bound() -> None:
    assert (
        impute_censored(np.array([0.0, 9.0]), np.array([False, True]), draws=3)[1].tolist()
        == [9.0] * 3
    )


def test_a_row_of_weight_three_is_three_rows() -> None:
    x, y = proportional(50, 2.0, 1)
    apps, weights = [LONG, SHORT] * 25, np.where(np.arange(50) % 5, 1.0, 3.0)
    again = np.repeat(np.arange(50), weights.astype(int))
    weighed, lines = fit_lines(apps, x, y, np.zeros(50, bool), weights)
    repeated, others = fit_lines(
        [apps[row] for row in again], x[again], y[again], np.zeros(len(again), bool)
    )
    for one, other in ((weighed, repeated), *((lines[app], others[app]) for app in lines)):
        assert one.intercept == pytest.approx(other.intercept)
        assert one.slope == pytest.approx(other.slope)
        assert one.spread == pytest.approx(other.spread)
