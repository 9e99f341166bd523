"""The targets of P1, on the valid lines, without history unless stated."""

from collections.abc import Iterator
from typing import Final

from benchmarks.harness.report import Target, target
from benchmarks.p1.rows import family_mean
from gateway.evaluation.baselines import INPUT_LENGTH, LINE_PER_APP
from gateway.evaluation.experiment import OURS, EvaluationSummary
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.scoring import POOLED

MIN_LOG_RMSE_GAIN: Final = 0.44
MIN_TOKEN_RMSE_GAIN: Final = 0.35
MIN_TAU: Final = 0.70
MIN_FAMILY_TAU: Final = {"proportional": 0.785, "open": 0.48}
MAX_OVER_LINE: Final = 1.03
COVERAGE_RANGE: Final = (0.88, 0.92)
MIN_APP_COVERAGE: Final = 0.85
MAX_HELD_OVER_USED: Final = 1.6


def targets(
    without_history: EvaluationSummary, with_history: EvaluationSummary | None
) -> Iterator[Target]:
    """The targets of one length rule; `with_history` is None until that run has finished."""
    for verdict in (
        *_against_baselines(without_history),
        *_absolute(without_history),
        _history(without_history, with_history),
    ):
        yield Target(
            f"{without_history.lengths}: {verdict.name}", verdict.value, verdict.target, verdict.met
        )


def _against_baselines(without_history: EvaluationSummary) -> Iterator[Target]:
    ours, simple = (
        without_history.scores[OURS][POOLED],
        without_history.scores[INPUT_LENGTH][POOLED],
    )
    line, magnus = without_history.versus[LINE_PER_APP], dict(without_history.versus[MAGNUS])
    pooled = magnus.pop(POOLED)
    behind = sum(each.low > 0 for each in magnus.values())
    worst = max(each.ours / each.theirs for app, each in line.items() if app != POOLED)
    yield target(
        "log-RMSE below input length",
        1 - ours.log_rmse_mean / simple.log_rmse_mean,
        MIN_LOG_RMSE_GAIN,
    )
    yield target(
        "token RMSE below input length",
        1 - ours.token_rmse / simple.token_rmse,
        MIN_TOKEN_RMSE_GAIN,
    )
    yield target("log-RMSE over the line's, worst app", worst, MAX_OVER_LINE, "at most")
    yield target("log-RMSE less Magnus's, upper end of 95 %", pooled.high, 0, "at most")
    yield target("apps significantly behind Magnus", behind, 0, "at most")


def _absolute(without_history: EvaluationSummary) -> Iterator[Target]:
    cards = without_history.scores[OURS]
    pooled = cards[POOLED]
    short = sum(card.coverage_high < MIN_APP_COVERAGE for card in cards.values())
    yield target("τ pooled", pooled.tau, MIN_TAU)
    for family, bound in MIN_FAMILY_TAU.items():
        yield target(f"τ, mean of {family} apps", family_mean(cards, family, "tau"), bound)
    yield target("P90 covers", pooled.coverage, COVERAGE_RANGE[0])
    yield target("P90 covers", pooled.coverage, COVERAGE_RANGE[1], "at most")
    yield target("apps significantly below 85 % coverage", short, 0, "at most")
    held = pooled.held_over_used
    yield target("held over used at 90 % coverage", held, MAX_HELD_OVER_USED, "at most")


def _history(without_history: EvaluationSummary, with_history: EvaluationSummary | None) -> Target:
    ratio = None
    if with_history is not None:
        ratio = (
            with_history.scores[OURS][POOLED].log_rmse_mean
            / without_history.scores[OURS][POOLED].log_rmse_mean
        )
    return target("log-RMSE with history over without", ratio, 1, "at most")
