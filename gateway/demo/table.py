"""The outcomes as tables and a sentence."""

from typing import Final

from rich import box
from rich.table import Table

from gateway.demo.figures import (
    BatchFigures,
    Passes,
    mean_actual,
    mean_error,
    mean_predicted,
    mean_response,
    response_quantile,
)
from gateway.demo.sending import Outcome
from gateway.demo.training import Learned

ALL: Final = "all apps"
NOTES: Final = (
    "¹ longest less shortest answer of a batch, over batches of two requests or more\n"
    "² under lmaas a batch joins what runs; a fixed batch waits until the one before has ended"
)


def app_table(passes: Passes) -> Table:
    """A row for each app and one for all: lengths, errors and response times."""
    table = Table(
        title="Mean answer lengths in tokens, mean response times in seconds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("\napp", no_wrap=True)
    for heading in (
        "\nrequests",
        "before\nactual",
        "training\npredicted",
        "\noff by",
        "after\nactual",
        "training\npredicted",
        "\noff by",
        "response\nlmaas",
        "time\nfixed",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for app in passes.apps():
        table.add_row(app, *_cells(passes.of(app)))
    table.add_section()
    table.add_row(ALL, *_cells(passes), style="bold")
    return table


def _cells(passes: Passes) -> list[str]:
    return [
        str(len(passes.after)),
        *_lengths(passes.before),
        *_lengths(passes.after),
        f"{mean_response(passes.after):.2f}",
        f"{mean_response(passes.fixed):.2f}",
    ]


def _lengths(outcomes: list[Outcome]) -> list[str]:
    figures = (mean_actual(outcomes), mean_predicted(outcomes), mean_error(outcomes))
    return [f"{figure:.1f}" for figure in figures]


def policy_table(passes: Passes) -> Table:
    """A row for each policy: its batches and its response times, the same questions under both."""
    table = Table(
        title="The same questions under two policies",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("policy")
    for heading in (
        "batches²",
        "mean size",
        "mean spread¹",
        "mean response",
        "p90 response",
    ):
        table.add_column(heading, justify="right")
    for name, outcomes in (("lmaas", passes.after), ("fixed", passes.fixed)):
        batches = BatchFigures.of(outcomes)
        table.add_row(
            name,
            str(batches.count),
            f"{batches.mean_size:.1f}",
            "none" if batches.spread is None else f"{batches.spread:.1f} tokens",
            f"{mean_response(outcomes):.2f} s",
            f"{response_quantile(outcomes, 0.9):.2f} s",
        )
    return table


def summary(passes: Passes, learned: Learned) -> str:
    """One sentence: what training did to the error, and the policy to the response time."""
    lmaas_s, fixed_s = mean_response(passes.after), mean_response(passes.fixed)
    foreign = learned.rows - learned.own_rows
    whose = f" ({foreign} of them not the demo's)" if foreign else ""
    return (
        f"Having learned from {learned.rows} requests{whose}, predictions of new ones are off by "
        f"{mean_error(passes.after):.1f} tokens on average instead of "
        f"{mean_error(passes.before):.1f}; the mean response takes {lmaas_s:.2f} s under lmaas "
        f"and {fixed_s:.2f} s under fixed batches ({lmaas_s / fixed_s - 1:+.0%})."
    )
