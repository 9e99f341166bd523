"""The results of a run as tables."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from gateway.evaluation.bootstrap import PairedDifference
from gateway.evaluation.experiment import OURS, EvaluationSummary
from gateway.evaluation.midflight import MidflightErrors
from gateway.evaluation.scoring import POOLED, DetailedScorecard
from gateway.quantiles import LEVELS

TABLE_WIDTH: Final = 112  # of the widest table, in characters
NEW_APP_MARK: Final = "*"  # marks an app without training lines

_MEASURES: Final = (
    "\nn",
    "\nMAE",
    "token\nRMSE",
    "log\nRMSE",
    "\nτ",
    "P90 covers\n%",
    "P90/actual\nmean",
    "\nmedian",
    "\nsums",
)
_LEVELS: Final = (*(f"\nq{100 * level:.0f}" for level in LEVELS), "\nmean")


def tables(summary: EvaluationSummary) -> RenderableType:
    """All tables of a run: by app, by predictor if there are baselines, and mid-flight."""
    return Group(*_tables(summary))


def _tables(summary: EvaluationSummary) -> Iterator[RenderableType]:
    new = set(summary.new_apps)
    ours = {_named(app, new): card for app, card in summary.scores[OURS].items()}
    yield _scores_table("Predicted lengths, by app", "app", ours)
    if new:
        yield f"{NEW_APP_MARK} not trained on\n"
    yield _losses_table("app", ours)
    if summary.versus:
        pooled = {name: cards[POOLED] for name, cards in summary.scores.items()}
        yield _scores_table("All apps, by predictor", "predictor", pooled)
        yield _losses_table("predictor", pooled)
        yield _versus_table(summary.versus)
    yield _midflight_table(summary.midflight)


def _scores_table(title: str, first: str, cards: dict[str, DetailedScorecard]) -> Table:
    return _cards_table(title, first, _MEASURES, cards, _score_cells)


def _losses_table(first: str, cards: dict[str, DetailedScorecard]) -> Table:
    title = "Pinball loss of log lengths, by quantile"
    return _cards_table(title, first, _LEVELS, cards, _loss_cells)


def _cards_table(
    title: str,
    first: str,
    headings: Sequence[str],
    cards: dict[str, DetailedScorecard],
    cells: Callable[[DetailedScorecard], list[str]],
) -> Table:
    table = _table(title, first, headings)
    for name, card in cards.items():
        if name == POOLED:
            table.add_section()
        table.add_row(name, *cells(card), style="bold" if name in {POOLED, OURS} else None)
    return table


def _score_cells(card: DetailedScorecard) -> list[str]:
    half = 50 * (card.coverage_high - card.coverage_low)
    return [
        str(card.rows),
        f"{card.mae:.1f}",
        f"{card.token_rmse:.1f}",
        f"{card.log_rmse_mean:.3f}",
        f"{card.tau:.3f}",
        f"{100 * card.coverage:.1f} ± {half:.1f}",
        f"{card.over_mean:.2f}",
        f"{card.over_median:.2f}",
        f"{card.over_total:.2f}",
    ]


def _loss_cells(card: DetailedScorecard) -> list[str]:
    return [f"{loss:.3f}" for loss in (*card.pinball_levels, card.pinball)]


def _versus_table(versus: dict[str, dict[str, PairedDifference]]) -> Table:
    """Our log-RMSE minus each baseline's, with its interval."""
    table = _table(
        "log-RMSE: ours, and ours less the baseline's with its 95 % interval",
        "app",
        ("ours", *versus),
    )
    first = next(iter(versus.values()))
    for app, difference in first.items():
        if app == POOLED:
            table.add_section()
        cells = [_difference(by_app[app]) for by_app in versus.values()]
        table.add_row(
            app, f"{difference.ours:.3f}", *cells, style="bold" if app == POOLED else None
        )
    return table


def _difference(found: PairedDifference) -> str:
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _midflight_table(found: list[MidflightErrors]) -> Table:
    shares = list(dict.fromkeys(each.share for each in found))
    headings = [
        heading
        for share in shares
        for heading in (f"after {share:.0%}\nstatic", "given what\nwas generated")
    ]
    table = _table("Mean absolute error of the remaining length, in tokens", "app", headings)
    by_place = {(each.app, each.share): each for each in found}
    for app in dict.fromkeys(each.app for each in found):
        if app == POOLED:
            table.add_section()
        cells = [cell for share in shares for cell in _midflight_cells(by_place.get((app, share)))]
        table.add_row(app, *cells, style="bold" if app == POOLED else None)
    return table


def _midflight_cells(found: MidflightErrors | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    return f"{found.static_mae:.1f}", f"{found.conditional_mae:.1f}"


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(f"\n{first}", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _named(app: str, new: set[str]) -> str:
    return app + NEW_APP_MARK if app in new else app
