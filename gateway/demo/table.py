"""The results as tables and a sentence."""

from typing import Final

from rich import box
from rich.table import Table

from gateway.demo.figures import (
    BatchStatistics,
    DemoPasses,
    mean_actual,
    mean_error,
    mean_predicted,
    mean_response,
    response_quantile,
)
from gateway.demo.sending import DemoResult
from gateway.demo.training import TrainingResult

ALL: Final = "all apps"
NOTES: Final = (
    "¹ longest minus shortest answer of a batch, mean over batches of two or more requests\n"
    "² under lmaas a batch joins the running requests; a fixed batch waits for the previous one"
)


def app_table(passes: DemoPasses) -> Table:
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
        table.add_row(app, *_app_cells(passes.of(app)))
    table.add_section()
    table.add_row(ALL, *_app_cells(passes), style="bold")
    return table


def _app_cells(passes: DemoPasses) -> list[str]:
    return [
        str(len(passes.after)),
        *_length_cells(passes.before),
        *_length_cells(passes.after),
        f"{mean_response(passes.after):.2f}",
        f"{mean_response(passes.fixed):.2f}",
    ]


def _length_cells(results: list[DemoResult]) -> list[str]:
    figures = (mean_actual(results), mean_predicted(results), mean_error(results))
    return [f"{figure:.1f}" for figure in figures]


def policy_table(passes: DemoPasses) -> Table:
    """A row for each policy: batches and response times of the same questions."""
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
    for name, results in (("lmaas", passes.after), ("fixed", passes.fixed)):
        batches = BatchStatistics.of(results)
        table.add_row(
            name,
            str(batches.count),
            f"{batches.mean_size:.1f}",
            "none" if batches.spread is None else f"{batches.spread:.1f} tokens",
            f"{mean_response(results):.2f} s",
            f"{response_quantile(results, 0.9):.2f} s",
        )
    return table


def summary(passes: DemoPasses, training: TrainingResult) -> str:
    """One sentence: the effect of training on the error, and of the policy on response time."""
    lmaas_s, fixed_s = mean_response(passes.after), mean_response(passes.fixed)
    others = training.rows - training.own_rows
    whose = f" ({others} of them not the demo's)" if others else ""
    return (
        f"After training on {training.rows} requests{whose}, predictions for new ones are off by "
        f"{mean_error(passes.after):.1f} tokens on average instead of "
        f"{mean_error(passes.before):.1f}; the mean response time is {lmaas_s:.2f} s under lmaas "
        f"and {fixed_s:.2f} s under fixed batches ({lmaas_s / fixed_s - 1:+.0%})."
    )
