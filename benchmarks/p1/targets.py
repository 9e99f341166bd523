"""What P1 is held to, on the valid lines, without history unless it is named."""

from collections.abc import Iterator
from typing import Final

from benchmarks.harness.report import Target, target
from benchmarks.p1.rows import family_mean
from gateway.evaluation.baselines import INPUT_LENGTH, LINE_PER_APP
from gateway.evaluation.experiment import OURS, EvaluationSummary
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.scoring import POOLED

LOG_GAIN: Final = 0.42
TOKEN_GAIN: Final = 0.33
TAU: Final = 0.69
TAUS: Final = {"proportional": 0.78, "open": 0.44}
OVER_LINE: Final = 1.03
COVERAGE: Final = (0.88, 0.92)
APP_COVERAGE: Final = 0.85
OVERS: Final = {"proportional": 1.25, "open": 2.2}


def targets(off: EvaluationSummary, on: EvaluationSummary | None) -> Iterator[Target]:
    """The verdicts on one rule of length; `on` is the run with history, None while it is due."""
    for verdict in (*_against_baselines(off), *_in_itself(off), _history(off, on)):
        yield Target(f"{off.lengths}: {verdict.name}", verdict.value, verdict.target, verdict.met)


def _against_baselines(off: EvaluationSummary) -> Iterator[Target]:
    ours, simple = off.scores[OURS][POOLED], off.scores[INPUT_LENGTH][POOLED]
    line, magnus = off.versus[LINE_PER_APP], dict(off.versus[MAGNUS])
    pooled = magnus.pop(POOLED)
    behind = sum(each.low > 0 for each in magnus.values())
    worst = max(each.ours / each.theirs for app, each in line.items() if app != POOLED)
    yield target(
        "log-RMSE below input length", 1 - ours.log_rmse_mean / simple.log_rmse_mean, LOG_GAIN
    )
    yield target(
        "token RMSE below input length", 1 - ours.token_rmse / simple.token_rmse, TOKEN_GAIN
    )
    yield target("log-RMSE over the line's, worst app", worst, OVER_LINE, "at most")
    yield target("log-RMSE less Magnus's, upper end of 95 %", pooled.high, 0, "at most")
    yield target("apps significantly behind Magnus", behind, 0, "at most")


def _in_itself(off: EvaluationSummary) -> Iterator[Target]:
    cards = off.scores[OURS]
    pooled = cards[POOLED]
    short = sum(card.coverage_high < APP_COVERAGE for card in cards.values())
    yield target("τ pooled", pooled.tau, TAU)
    for family, bound in TAUS.items():
        yield target(f"τ, mean of {family} apps", family_mean(cards, family, "tau"), bound)
    yield target("P90 covers", pooled.coverage, COVERAGE[0])
    yield target("P90 covers", pooled.coverage, COVERAGE[1], "at most")
    yield target("apps significantly below 85 % coverage", short, 0, "at most")
    for family, bound in OVERS.items():
        over = family_mean(cards, family, "over_mean")
        yield target(f"P90/actual, mean of {family} apps", over, bound, "at most")


def _history(off: EvaluationSummary, on: EvaluationSummary | None) -> Target:
    ratio = None
    if on is not None:
        ratio = on.scores[OURS][POOLED].log_rmse_mean / off.scores[OURS][POOLED].log_rmse_mean
    return target("log-RMSE with history over without", ratio, 1, "at most")
