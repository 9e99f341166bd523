"""The targets of P1."""

from collections.abc import Mapping

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from benchmarks.__main__ import main
from benchmarks.p1.families import FAMILIES
from benchmarks.p1.targets import targets
from gateway.evaluation.baselines import INPUT_LENGTH, LINE_PER_APP
from gateway.evaluation.bootstrap import PairedDifference
from gateway.evaluation.experiment import OURS, EvaluationSummary
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.scoring import POOLED, DetailedScorecard

APPS = [app for family in FAMILIES.values() for app in family]
GOOD = DetailedScorecard(
    rows=500,
    mae=10.0,
    token_rmse=50.0,
    log_rmse_median=0.5,
    log_rmse_mean=0.5,
    tau=0.8,
    pinball=0.1,
    pinball_tokens=5.0,
    pinball_levels=[0.1] * 6,
    coverage=0.9,
    coverage_low=0.87,
    coverage_high=0.93,
    over_mean=1.2,
    over_median=1.1,
    over_total=1.1,
)
AHEAD = PairedDifference(ours=0.5, theirs=0.6, difference=-0.1, low=-0.2, high=-0.05)


def a_summary(
    ours: Mapping[str, DetailedScorecard] | None = None,
    magnus: Mapping[str, PairedDifference] | None = None,
) -> EvaluationSummary:
    """A summary that meets every target, except for the given apps."""
    simple = replace(GOOD, log_rmse_mean=1.0, token_rmse=100.0)
    everything = [*APPS, POOLED]
    return EvaluationSummary(
        lengths="words",
        history=False,
        train_rows=5_000,
        test_rows=500,
        new_apps=[],
        fit_s=1.0,
        scores={
            OURS: dict.fromkeys(everything, GOOD) | dict(ours or {}),
            INPUT_LENGTH: dict.fromkeys(everything, simple),
        },
        versus={
            LINE_PER_APP: dict.fromkeys(everything, AHEAD),
            MAGNUS: dict.fromkeys(everything, AHEAD) | dict(magnus or {}),
        },
        midflight=[],
    )


def missed(
    without_history: EvaluationSummary, with_history: EvaluationSummary | None = None
) -> list[str]:
    return [
        verdict.name
        for verdict in targets(without_history, with_history or without_history)
        if not verdict.met
    ]


def test_good_run_meets_every_target() -> None:
    assert missed(a_summary()) == []


def test_history_that_is_still_due_is_a_missed_target() -> None:
    verdicts = [verdict for verdict in targets(a_summary(), None) if not verdict.met]
    assert [(each.name, each.value) for each in verdicts] == [
        ("words: log-RMSE with history over without, at most", None)
    ]


@pytest.mark.parametrize(
    ("app", "changes", "target"),
    [
        (POOLED, {"log_rmse_mean": 0.59}, "log-RMSE below input length, at least"),
        (POOLED, {"token_rmse": 68.0}, "token RMSE below input length, at least"),
        (POOLED, {"tau": 0.68}, "τ pooled, at least"),
        (POOLED, {"coverage": 0.87}, "P90 covers, at least"),
        (POOLED, {"coverage": 0.93}, "P90 covers, at most"),
        ("grammar", {"coverage_high": 0.84}, "apps significantly below 85 % coverage, at most"),
        ("grammar", {"tau": 0.6}, "τ, mean of proportional apps, at least"),
        ("staff_qa", {"tau": -2.0}, "τ, mean of open apps, at least"),
        ("grammar", {"over_mean": 2.0}, "P90/actual, mean of proportional apps, at most"),
        ("staff_qa", {"over_mean": 10.0}, "P90/actual, mean of open apps, at most"),
    ],
)
def test_each_target_is_missed_on_its_own(app: str, changes: dict[str, float], target: str) -> None:
    changed = a_summary(ours={app: replace(GOOD, **changes)})
    assert missed(changed) == [f"words: {target}"]


def test_one_app_significantly_behind_magnus_is_a_missed_target() -> None:
    behind = replace(AHEAD, low=0.01, high=0.2)
    assert missed(a_summary(magnus={"grammar": behind})) == [
        "words: apps significantly behind Magnus, at most"
    ]


def test_error_line_says_what_p1_needs() -> None:
    found = CliRunner(env={"LENGTH_DATA": None}).invoke(main, ["P1"])
    assert found.exit_code == 1
    assert found.output == "Error: P1 needs a folder of texts: --data DIR, or LENGTH_DATA=DIR\n"
