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
from gateway.prediction.messages import FORMS, Form
from gateway.quantiles import LEVELS

TENANT, APP = UUID(int=1), UUID(int=2)


def an_outcome(tokens: int, **changes: object) -> LengthOutcome:
    fields = {"tenant": TENANT, "app": APP, "end_user": None, "censored": False, "ended_at": 0.0}
    return LengthOutcome(**{**fields, "tokens": tokens, **changes})  # type: ignore[arg-type]


def history(lengths: LengthHistory, **changes: object) -> RequestHistory:
    fields = {"tenant": TENANT, "app": APP, "end_user": None, "max_tokens": 100, "now": 0.0}
    return lengths.history(**{**fields, **changes})  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=30))
def test_app_statistics_are_shrunk_towards_tenant_global_and_prior(tokens: list[int]) -> None:
    lengths = LengthHistory()
    for count in tokens:
        lengths.learn(an_outcome(count))
    logs = np.log(tokens)
    own_weight = len(tokens) / (len(tokens) + SHRINKAGE)
    prior_weight = (1 - own_weight) ** 3  # global, tenant and app have the same lengths
    prior = prior_statistics(100)
    app = history(lengths).app
    assert app.mean == pytest.approx(
        (1 - prior_weight) * logs.mean() + prior_weight * prior.mean, abs=1e-5
    )
    assert app.spread == pytest.approx(
        (1 - prior_weight) * logs.std() + prior_weight * prior.spread, abs=1e-5
    )
    exact = np.quantile(logs, LEVELS, method="inverted_cdf")
    expected = (1 - prior_weight) * exact + prior_weight * np.array(prior.quantiles)
    np.testing.assert_allclose(app.quantiles, expected, atol=1e-5)


def test_source_is_the_most_specific_level_with_enough_weight() -> None:
    lengths = LengthHistory()
    assert history(lengths).source == "prior"
    for _ in range(4):
        lengths.learn(an_outcome(50, tenant=uuid4(), app=uuid4()))
    assert history(lengths).source == "global"
    for _ in range(4):
        lengths.learn(an_outcome(50, app=uuid4()))
    assert history(lengths).source == "tenant"
    for _ in range(4):
        lengths.learn(an_outcome(50))
    assert history(lengths).source == "app"


def test_prior_is_log_uniform_up_to_max_tokens() -> None:
    known = history(LengthHistory(), max_tokens=10_000).app
    assert math.exp(known.quantiles[2]) == pytest.approx(100)
    assert known.count == 0
    assert known.recency_s == MAX_RECENCY_S


def test_users_are_keyed_by_app_and_name() -> None:
    lengths = LengthHistory()
    for _ in range(30):
        lengths.learn(an_outcome(10, end_user="brief"))
        lengths.learn(an_outcome(1_000, end_user="wordy"))
    brief, wordy = history(lengths, end_user="brief"), history(lengths, end_user="wordy")
    assert math.exp(brief.user.mean) < 20
    assert math.exp(wordy.user.mean) > 500
    assert brief.user.count == 30
    assert brief.app == wordy.app
    assert history(lengths, end_user="brief", app=uuid4()).user.count == 0


def test_censored_length_raises_the_quantiles_above_it() -> None:
    natural, cut = LengthHistory(), LengthHistory()
    for tokens in (10, 20, 40, 80) * 5:
        natural.learn(an_outcome(tokens))
        cut.learn(an_outcome(tokens, censored=tokens == 20))
    assert history(cut).app.mean > history(natural).app.mean
    assert history(cut).app.quantiles[0] == history(natural).app.quantiles[0]


def test_request_cut_off_before_its_first_token_is_skipped() -> None:
    lengths = LengthHistory()
    lengths.learn(an_outcome(0, censored=True))
    assert history(lengths) == history(LengthHistory())


def test_recency_counts_from_the_last_end() -> None:
    lengths = LengthHistory()
    lengths.learn(an_outcome(5, ended_at=100.0))
    lengths.learn(an_outcome(5, ended_at=90.0))
    assert history(lengths, now=130.0).app.recency_s == 30.0
    assert history(lengths, now=0.0).app.recency_s == 0.0


def test_memory_is_bounded_and_the_least_recently_updated_is_dropped() -> None:
    lengths = LengthHistory(max_apps=3, max_users=5)
    for number in range(600):
        app = UUID(int=number % 7)
        lengths.learn(an_outcome(10, tenant=app, app=app, end_user=f"user {number}"))
    lengths.check()
    assert history(lengths, app=UUID(int=599 % 7)).app.count > 0
    assert history(lengths, app=UUID(int=593 % 7 + 1)).app.count == 0


def test_forms_of_an_app_have_lengths_of_their_own() -> None:
    lengths = LengthHistory()
    for _ in range(40):
        lengths.learn(an_outcome(200, end_user="ursula"))
        lengths.learn(an_outcome(20, end_user="ursula", form="json"))
    free, json = (history(lengths, form=form, end_user="ursula") for form in ("free", "json"))
    assert math.exp(free.app.mean) > 150
    assert math.exp(json.app.mean) < 25
    assert math.exp(json.user.mean) < 25
    assert (free.app.count, json.app.count, json.user.count) == (40, 40, 40)


def test_first_answers_of_a_form_are_predicted_from_the_apps_others() -> None:
    lengths = LengthHistory()
    for _ in range(40):
        lengths.learn(an_outcome(200))
        lengths.learn(an_outcome(5, app=uuid4()))
    free, first = history(lengths), history(lengths, form="tool")
    assert (first.app.quantiles, first.source) == (free.app.quantiles, "app")
    assert (first.app.count, first.user.count) == (0, 0)
    lengths.learn(an_outcome(20, form="tool"))
    after = history(lengths, form="tool")
    weight = 1 / (1 + SHRINKAGE)
    assert after.app.mean == pytest.approx(weight * math.log(20) + (1 - weight) * free.app.mean)
    assert after.app.count == 1
    assert history(lengths).app.mean > free.app.mean - 0.1  # moves with all lengths alone


@given(st.lists(st.tuples(st.integers(1, 5_000), st.sampled_from(FORMS)), max_size=40))
def test_form_of_most_lengths_is_never_drawn_to_another(
    outcomes: list[tuple[int, Form]],
) -> None:
    both, alone = LengthHistory(), LengthHistory()
    for tokens, form in outcomes:
        both.learn(an_outcome(tokens, form=form))
        alone.learn(an_outcome(tokens, form=form, app=APP if form == "free" else uuid4()))
    counts = {form: sum(each == form for _, each in outcomes) for form in FORMS}
    if counts["free"] == max(counts.values()) > 0:
        assert history(both) == history(alone)
