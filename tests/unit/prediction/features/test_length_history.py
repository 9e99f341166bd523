import math
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.features.length_history import (
    MAX_RECENCY_S,
    SHRINKAGE,
    LengthHistory,
    LengthOutcome,
    RequestHistory,
    prior_statistics,
)
from gateway.quantiles import LEVELS

TENANT, APP = UUID(int=1), UUID(int=2)


def an_outcome(tokens: int, **changes: object) -> LengthOutcome:
    given_ = {"tenant": TENANT, "app": APP, "end_user": None, "censored": False, "ended_at": 0.0}
    return LengthOutcome(**{**given_, "tokens": tokens, **changes})  # type: ignore[arg-type]


def history(habits: LengthHistory, **changes: object) -> RequestHistory:
    asked = {"tenant": TENANT, "app": APP, "end_user": None, "max_tokens": 100, "now": 0.0}
    return habits.history(**{**asked, **changes})  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=30))
def test_app_lengths_lean_on_tenant_global_and_prior_as_numpy_says(lengths: list[int]) -> None:
    habits = LengthHistory()
    for tokens in lengths:
        habits.learn(an_outcome(tokens))
    logs = np.log(lengths)
    own = len(lengths) / (len(lengths) + SHRINKAGE)
    left = (1 - own) ** 3  # global, tenant and app saw the same lengths
    top = prior_statistics(100)
    app = history(habits).app
    assert app.mean == pytest.approx((1 - left) * logs.mean() + left * top.mean, abs=1e-5)
    assert app.spread == pytest.approx((1 - left) * logs.std() + left * top.spread, abs=1e-5)
    exact = np.quantile(logs, LEVELS, method="inverted_cdf")
    expected = (1 - left) * exact + left * np.array(top.quantiles)
    np.testing.assert_allclose(app.quantiles, expected, atol=1e-5)


def test_nearest_history_with_weight_is_the_source() -> None:
    habits = LengthHistory()
    assert history(habits).source == "prior"
    for _ in range(4):
        habits.learn(an_outcome(50, tenant=uuid4(), app=uuid4()))
    assert history(habits).source == "global"
    for _ in range(4):
        habits.learn(an_outcome(50, app=uuid4()))
    assert history(habits).source == "tenant"
    for _ in range(4):
        habits.learn(an_outcome(50))
    assert history(habits).source == "app"


def test_prior_is_log_uniform_up_to_max_tokens() -> None:
    known = history(LengthHistory(), max_tokens=10_000).app
    assert math.exp(known.quantiles[2]) == pytest.approx(100)
    assert known.count == 0
    assert known.recency_s == MAX_RECENCY_S


def test_user_differs_from_the_app_and_is_known_by_app_and_name() -> None:
    habits = LengthHistory()
    for _ in range(30):
        habits.learn(an_outcome(10, end_user="brief"))
        habits.learn(an_outcome(1_000, end_user="wordy"))
    brief, wordy = history(habits, end_user="brief"), history(habits, end_user="wordy")
    assert math.exp(brief.user.mean) < 20
    assert math.exp(wordy.user.mean) > 500
    assert brief.user.count == 30
    assert brief.app == wordy.app
    assert history(habits, end_user="brief", app=uuid4()).user.count == 0


def test_length_that_was_cut_off_raises_what_lies_above_it() -> None:
    natural, cut = LengthHistory(), LengthHistory()
    for tokens in (10, 20, 40, 80) * 5:
        natural.learn(an_outcome(tokens))
        cut.learn(an_outcome(tokens, censored=tokens == 20))
    assert history(cut).app.mean > history(natural).app.mean
    assert history(cut).app.quantiles[0] == history(natural).app.quantiles[0]


def test_request_cut_off_before_its_first_token_teaches_nothing() -> None:
    habits = LengthHistory()
    habits.learn(an_outcome(0, censored=True))
    assert history(habits) == history(LengthHistory())


def test_recency_counts_from_the_last_end() -> None:
    habits = LengthHistory()
    habits.learn(an_outcome(5, ended_at=100.0))
    habits.learn(an_outcome(5, ended_at=90.0))
    assert history(habits, now=130.0).app.recency_s == 30.0
    assert history(habits, now=0.0).app.recency_s == 0.0


def test_memory_is_bounded_and_the_least_recently_learned_goes() -> None:
    habits = LengthHistory(max_apps=3, max_users=5)
    for number in range(600):
        app = UUID(int=number % 7)
        habits.learn(an_outcome(10, tenant=app, app=app, end_user=f"user {number}"))
    habits.check()
    assert history(habits, app=UUID(int=599 % 7)).app.count > 0
    assert history(habits, app=UUID(int=593 % 7 + 1)).app.count == 0
