"""The rows of P1: by predictor, by app, against the baselines, and mid-flight."""

from collections.abc import Iterable, Iterator
from statistics import fmean

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p1.families import FAMILIES
from gateway.evaluation.baselines import LINE_PER_APP
from gateway.evaluation.experiment import OURS, EvaluationRun, EvaluationSummary
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.midflight import MidflightErrors
from gateway.evaluation.scoring import POOLED, DetailedScorecard, score


def overall_rows(run: EvaluationRun, history: str) -> Iterator[Row]:
    """A row for each predictor: pooled measures, and means over the apps of each family.

    `over_*` is P90 over the actual length: means over apps of the apps' medians, and `sums` the
    ratio of the family's sums. `held/used` is the ratio of all sums at a coverage of 90 %.
    """
    for name, cards in run.summary.scores.items():
        card = cards[POOLED]
        yield {
            "lengths": run.summary.lengths,
            "history": history,
            "predictor": name,
            "log_rmse_mean": card.log_rmse_mean,
            "token_rmse": card.token_rmse,
            "mae": card.mae,
            "pinball": card.pinball,
            "coverage": card.coverage,
            "tau": card.tau,
            **{f"tau_{family}": family_mean(cards, family, "tau") for family in FAMILIES},
            "held/used": card.held_over_used,
            **{
                f"over_median_{family}": family_mean(cards, family, "over_median")
                for family in FAMILIES
            },
            **{f"over_sums_{family}": _over_sums(run, name, family) for family in FAMILIES},
            "fit_s": run.summary.fit_s if name == OURS else None,
        }


def app_rows(summary: EvaluationSummary) -> Iterator[Row]:
    """A row for each app, and one for all: our predictor without history."""
    for app, card in summary.scores[OURS].items():
        yield {
            "lengths": summary.lengths,
            "app": app,
            "n": card.rows,
            "mae": card.mae,
            "token_rmse": card.token_rmse,
            "log_rmse_mean": card.log_rmse_mean,
            "tau": card.tau,
            "pinball": card.pinball,
            "pinball_levels": card.pinball_levels,
            "coverage": card.coverage,
            "coverage_low": card.coverage_low,
            "coverage_high": card.coverage_high,
            "over_median": card.over_median,
            "over_sums": card.over_total,
        }


def versus_rows(summary: EvaluationSummary) -> Iterator[Row]:
    """log-RMSE by app, the line's and Magnus's, with the paired interval for Magnus."""
    for app, line in summary.versus[LINE_PER_APP].items():
        magnus = summary.versus[MAGNUS][app]
        yield {
            "lengths": summary.lengths,
            "app": app,
            "ours": line.ours,
            "line": line.theirs,
            "ours/line": line.ours / line.theirs,
            "Magnus": magnus.theirs,
            "ours - Magnus": magnus.difference,
            "low": magnus.low,
            "high": magnus.high,
        }


def source_rows(run: EvaluationRun) -> Iterator[Row]:
    """Apps with several sources, per source: separating the sources alone lowers an app's error."""
    sources = np.array([line.source or "" for line in run.lines])
    for app in np.unique(run.names):
        in_family = np.unique(sources[run.names == app])
        for source in in_family if len(in_family) > 1 else ():
            rows = (run.names == app) & (sources == source)
            cards = {
                name: score(run.tokens[rows], forecast.rows(rows))
                for name, forecast in run.forecasts.items()
            }
            yield {
                "lengths": run.summary.lengths,
                "app": str(app),
                "source": str(source).partition(" (")[0],
                "n": int(rows.sum()),
                "log_rmse_mean": cards[OURS].log_rmse_mean,
                "line log_rmse_mean": cards[LINE_PER_APP].log_rmse_mean,
                "Magnus log_rmse_mean": cards[MAGNUS].log_rmse_mean,
                "τ": cards[OURS].tau,
                "line τ": cards[LINE_PER_APP].tau,
                "Magnus τ": cards[MAGNUS].tau,
            }


def midflight_rows(summary: EvaluationSummary) -> Iterator[Row]:
    """Errors of the remaining length in tokens, pooled and over each family's answers."""
    groups: dict[str, tuple[str, ...]] = {POOLED: (POOLED,), **FAMILIES}
    for share in dict.fromkeys(each.share for each in summary.midflight):
        for group, apps in groups.items():
            found = [each for each in summary.midflight if each.share == share and each.app in apps]
            if found:
                static = _weighted_mean((each, each.static_mae) for each in found)
                conditional = _weighted_mean((each, each.conditional_mae) for each in found)
                yield {
                    "lengths": summary.lengths,
                    "generated": f"{share:.0%}",
                    "apps": group,
                    "answers": sum(each.rows for each in found),
                    "static_mae": static,
                    "revised_mae": conditional,
                    "revised/static": conditional / static,
                }


def family_mean(cards: dict[str, DetailedScorecard], family: str, measure: str) -> float | None:
    """The mean of a measure over the apps of a family; None if none of them is present."""
    values = [getattr(cards[app], measure) for app in FAMILIES[family] if app in cards]
    return fmean(values) if values else None


def _over_sums(run: EvaluationRun, predictor: str, family: str) -> float | None:
    in_family = [name in FAMILIES[family] for name in run.names]
    if not any(in_family):
        return None
    return float(run.forecasts[predictor].p90[in_family].sum() / run.tokens[in_family].sum())


def _weighted_mean(values: Iterable[tuple[MidflightErrors, float]]) -> float:
    pairs = list(values)
    return sum(each.rows * value for each, value in pairs) / sum(each.rows for each, _ in pairs)
