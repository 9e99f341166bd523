"""`lmaas admin predictors train`, `run`, `runs`, `cancel` and `schedule`: training runs."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway.cli.admin.output import Columns
from gateway.cli.admin.scorecards import SCORECARD_COLUMNS, scorecards, verdict
from gateway.cli.admin.session import AdminCommand, AdminSession, pass_session
from gateway.errors import InvalidRequest, LmaasError

POLL_S: Final = 0.5
OPEN_STATES: Final = ("queued", "running")
INTERRUPTED: Final = 130  # exit status after Ctrl-C
PHASES: Final = {
    "drawing": "drawing rows of history",
    "reading": "reading rows",
    "fitting": "fitting and judging a version",
    "storing": "storing the version",
}
COLUMNS: Columns = {
    "state": "state",
    "started by": "trigger",
    "rows": "rows_read",
    "created": "created_at",
    "finished": "finished_at",
    "error": "error",
    "id": "id",
}


@click.command("train", cls=AdminCommand)
@click.option(
    "--activate/--keep",
    default=True,
    show_default=True,
    help="Activate the new version if it is no worse than the active one, or keep it inactive.",
)
@click.option("--wait", is_flag=True, help="Show the progress, wait for the end, show the result.")
@pass_session
def train(session: AdminSession, *, activate: bool, wait: bool) -> None:
    """Start a training run.

    Ctrl-C ends the waiting, not the run.
    """
    run = session.client.post("/admin/predictors", activate=activate)
    if not wait:
        session.output.item(run)
        session.output.next_step("predictors", "run", "latest", about="its progress and result")
        return
    try:
        run = _ended(session, run)
    except KeyboardInterrupt:
        click.echo(
            f"training continues; lmaas admin predictors run {run['id']} shows it, "
            f"lmaas admin predictors cancel {run['id']} stops it",
            err=True,
        )
        sys.exit(INTERRUPTED)
    _show_result(session, run)


@click.command("runs", cls=AdminCommand)
@pass_session
def list_runs(session: AdminSession) -> None:
    """List the newest training runs."""
    session.output.items(
        session.client.get("/admin/training-runs", limit=100)["data"],
        COLUMNS,
        none="no training run was started yet",
    )


@click.command("run", cls=AdminCommand)
@click.argument("run", default="latest")
@pass_session
def show_run(session: AdminSession, run: str) -> None:
    """Show a training run, by default the latest: phase, samples read per tenant."""
    session.output.item(session.client.get(f"/admin/training-runs/{session.names.run(run)}"))


@click.command("cancel", cls=AdminCommand)
@click.argument("run", default="latest")
@pass_session
def cancel_run(session: AdminSession, run: str) -> None:
    """Cancel a training run, by default the latest, also one of another gateway."""
    path = f"/admin/training-runs/{session.names.run(run)}/cancel"
    session.output.item(session.client.post(path))
    session.output.next_step("predictors", "runs")


@click.command("schedule", cls=AdminCommand)
@click.argument("changes", nargs=-1, metavar="[FIELD=VALUE]...")
@pass_session
def schedule(session: AdminSession, changes: tuple[str, ...]) -> None:
    """Show or change the schedule of automatic training.

    Example: lmaas admin predictors schedule every_s=3600 drift=false
    """
    path = "/admin/training-schedule"
    if changes:
        now = session.client.get(path)["schedule"]
        session.client.put(path, **now | dict(_parse_change(each) for each in changes))
    session.output.item(session.client.get(path))
    if changes:
        session.output.next_step("predictors", "runs", about="shows the runs that it starts")


def _parse_change(given: str) -> tuple[str, Any]:
    """The field and the decoded value of FIELD=VALUE, whose value is JSON. InvalidRequest."""
    field, _, value = given.partition("=")
    try:
        return field, json.loads(value)
    except ValueError as error:
        raise InvalidRequest(
            f"{given!r} is not FIELD=VALUE with a JSON value, such as every_s=3600"
        ) from error


def _ended(session: AdminSession, run: dict[str, Any]) -> dict[str, Any]:
    """The run once it has ended; its progress is shown on standard error meanwhile."""
    with _progress() as report:
        while run["state"] in OPEN_STATES:
            report(_phase(run))
            time.sleep(POLL_S)
            run = session.client.get(f"/admin/training-runs/{run['id']}")
    return run


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A function that shows the present phase: in place on a terminal, else a line for each."""
    console = Console(stderr=True)
    if not console.is_terminal:
        shown: list[str] = []

        def echo(phase: str) -> None:
            if shown[-1:] != [phase]:
                shown.append(phase)
                click.echo(phase, err=True)

        yield echo
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        yield lambda phase: progress.update(task, description=phase)


def _phase(run: dict[str, Any]) -> str:
    phase = PHASES.get(run["phase"], "waiting for the training process to start")
    return f"{phase} ({run['rows_read']} rows)" if run["rows_read"] else phase


def _show_result(session: AdminSession, run: dict[str, Any]) -> None:
    """Print whether the run's version was accepted, and why. LmaasError if there is none."""
    output = session.output
    if output.as_json:
        output.item(run)
    if run["state"] != "succeeded":
        raise LmaasError(f"the training run {run['state']}: {run['error']}")
    if output.as_json:
        return
    version = session.client.get(f"/admin/predictors/{run['predictor_id']}")
    metrics = version["metrics"]
    output.table(scorecards(metrics), SCORECARD_COLUMNS)
    output.text(f"trained on {_rows(run)}, judged on the newest {metrics['held_out_rows']} of them")
    output.text(verdict(version))
    if metrics["activated"]:
        output.next_step("drift", about="the accuracy of its predictions, as they are served")
    elif metrics["accepted"]:
        output.next_step("predictors", "activate", version["id"])
    elif metrics["active"]:
        output.next_step("predictors", "compare", version["id"], "active")
    else:
        output.next_step("predictors", "list")


def _rows(run: dict[str, Any]) -> str:
    samples = run["samples"]
    return (
        f"{run['rows_read']} requests ({samples['complete']} complete, "
        f"{samples['cut_off']} cut off)"
    )
