"""The rows of P1, from a run of four apps."""

import numpy as np
import pytest

from benchmarks.harness.report import rows_table
from benchmarks.p1.rows import (
    app_rows,
    family_mean,
    midflight_rows,
    overall_rows,
    source_rows,
    versus_rows,
)
from gateway.evaluation.baselines import LINE_PER_APP
from gateway.evaluation.bootstrap import compare_apps
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.experiment import OURS, EvaluationRun, EvaluationSummary
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.midflight import midflight
from gateway.evaluation.scoring import POOLED, log_errors, score_apps

APP_ROWS = 12
APPS = ("grammar", "detox", "math_steps", "unheard_of")


def guessed(tokens: np.ndarray, factor: float) -> Forecast:
    """Quantiles around the length times a factor."""
    return Forecast.of(np.log(tokens[:, None] * factor * np.array([0.5, 0.8, 1, 1.2, 1.5, 2])))


@pytest.fixture
def run() -> EvaluationRun:
    names = np.repeat(APPS, APP_ROWS)
    tokens = np.random.default_rng(8).integers(10, 90, len(names)).astype(float)
    limits = np.full(len(names), 1000.0)
    forecasts = {
        OURS: guessed(tokens, 1.0),
        LINE_PER_APP: guessed(tokens, 1.5),
        MAGNUS: guessed(tokens, 2),
    }
    errors = {name: log_errors(tokens, each) for name, each in forecasts.items()}
    lines = [
        CorpusLine(
            app=str(app),
            instruction="",
            input="",
            output="x",
            source=f"{'odd' if app == 'grammar' and number % 2 else 'even'} (free)",
        )
        for number, app in enumerate(names)
    ]
    summary = EvaluationSummary(
        lengths="words",
        history=False,
        train_rows=1,
        test_rows=len(names),
        new_apps=[],
        fit_s=2.5,
        scores={name: score_apps(names, tokens, each) for name, each in forecasts.items()},
        versus={
            name: compare_apps(names, errors[OURS], each)
            for name, each in errors.items()
            if name != OURS
        },
        midflight=midflight(names, tokens, limits, forecasts[OURS]),
    )
    return EvaluationRun(lines, names, tokens, limits, forecasts, forecasts, summary)


def test_every_predictor_has_a_row_and_ours_the_time_of_its_fit(run: EvaluationRun) -> None:
    rows = list(overall_rows(run, "off"))
    assert [(row["predictor"], row["fit_s"]) for row in rows] == [
        (OURS, 2.5),
        (LINE_PER_APP, None),
        (MAGNUS, None),
    ]
    assert rows[0]["over_proportional"] == pytest.approx(1.5)
    assert rows[0]["over_sums_open"] == pytest.approx(1.5)
    assert rows[2]["over_sums_open"] == pytest.approx(3)


def test_family_mean_counts_only_its_apps_once_each(run: EvaluationRun) -> None:
    cards = run.summary.scores[OURS]
    expected = (cards["grammar"].mae + cards["detox"].mae) / 2
    assert family_mean(cards, "proportional", "mae") == pytest.approx(expected)
    assert family_mean({"unheard_of": cards["grammar"]}, "open", "mae") is None


def test_every_app_is_compared_with_line_and_magnus(run: EvaluationRun) -> None:
    assert [row["app"] for row in app_rows(run.summary)] == [*sorted(APPS), POOLED]
    rows = list(versus_rows(run.summary))
    assert [row["app"] for row in rows] == [*sorted(APPS), POOLED]
    for row in rows:
        assert row["ours/line"] == pytest.approx(row["ours"] / row["line"])
        assert row["low"] <= row["ours - Magnus"] <= row["high"] < 0


def test_only_apps_with_several_sources_have_source_rows(run: EvaluationRun) -> None:
    found = [(row["app"], row["source"], row["n"]) for row in source_rows(run)]
    assert found == [("grammar", "even", APP_ROWS // 2), ("grammar", "odd", APP_ROWS // 2)]


def test_midflight_weighs_each_answer_the_same(run: EvaluationRun) -> None:
    rows = [row for row in midflight_rows(run.summary) if row["generated"] == "50%"]
    assert [(row["apps"], row["answers"]) for row in rows] == [
        (POOLED, 4 * APP_ROWS),
        ("proportional", 2 * APP_ROWS),
        ("open", APP_ROWS),
    ]
    half = np.floor(run.tokens / 2)
    static = np.abs(run.forecasts[OURS].median - run.tokens)
    assert (half >= 1).all()
    assert rows[0]["static_mae"] == pytest.approx(static.mean(), abs=1e-6)


def test_lists_stay_out_of_the_printed_table(run: EvaluationRun) -> None:
    assert "pinball_levels" not in rows_table(list(app_rows(run.summary)))
