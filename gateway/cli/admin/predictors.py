"""`lmaas admin predictors …`: train, compare, activate and move versions of the predictor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gateway.cli.admin.learning import learn
from gateway.cli.admin.output import Columns
from gateway.cli.admin.scorecards import SCORECARD_COLUMNS, scorecards
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session
from gateway.cli.admin.training import cancel_run, list_runs, schedule, show_run, train

File = click.Path(exists=True, dir_okay=False, path_type=Path)

COLUMNS: Columns = {
    "state": "state",
    "rows": "rows",
    "tau": "metrics.new.tau",
    "coverage": "metrics.new.coverage",
    "pinball": "metrics.new.pinball",
    "by": "created_by",
    "created": "created_at",
    "id": "id",
}


@click.group(cls=AdminGroup)
def predictors() -> None:
    """Versions of the length predictor, and their training.

    A version is given as active, previous or latest, by its id, or by 4 or more characters from the
    beginning or end of its id; a training run as latest or in the same way.
    """


for command in (train, list_runs, show_run, cancel_run, schedule, learn):
    predictors.add_command(command)


@predictors.command("list")
@pass_session
def list_predictors(session: AdminSession) -> None:
    """List the newest versions."""
    session.output.items(
        session.client.get("/admin/predictors", limit=100)["data"],
        COLUMNS,
        none="no version was trained yet",
    )


@predictors.command("show")
@click.argument("version")
@pass_session
def show_predictor(session: AdminSession, version: str) -> None:
    """Show a version with its metrics."""
    _show(session, session.client.get(f"/admin/predictors/{session.names.version(version)}"))


@predictors.command("activate")
@click.argument("version")
@pass_session
def activate_predictor(session: AdminSession, version: str) -> None:
    """Activate a version in all gateways of the database."""
    path = f"/admin/predictors/{session.names.version(version)}/activate"
    _show(session, session.client.post(path))
    session.output.next_step("drift", about="or predictors rollback")


@predictors.command("rollback")
@pass_session
def roll_back(session: AdminSession) -> None:
    """Activate the previously active version again."""
    _show(session, session.client.post("/admin/predictors/rollback"))
    session.output.next_step("drift")


@predictors.command("compare")
@click.argument("version")
@click.argument("other")
@pass_session
def compare(session: AdminSession, version: str, other: str) -> None:
    """Compare two versions on the newest history."""
    names, output = session.names, session.output
    path = f"/admin/predictors/{names.version(version)}/compare/{names.version(other)}"
    compared = session.client.get(path)
    if output.as_json:
        output.item(compared)
    elif compared["scorecards"] is None:
        output.text(f"not compared: {compared['why_not']}")
    else:
        both = zip(compared["versions"], compared["scorecards"], strict=True)
        output.table(
            [{"of": each["id"], **card} for each, card in both],
            {"id": "of", **{k: v for k, v in SCORECARD_COLUMNS.items() if k != "predictions"}},
        )
        seen = "that neither was trained on" if compared["unseen"] else "that training has seen"
        output.text(f"on the newest {compared['rows']} requests, {seen}")


@predictors.command("export")
@click.argument("version")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_session
def export_predictor(session: AdminSession, version: str, file: Path) -> None:
    """Write a version into a file."""
    stored = session.client.fetch(f"/admin/predictors/{session.names.version(version)}/export")
    file.write_bytes(stored)
    session.output.item({"file": str(file), "bytes": len(stored)})
    session.output.next_step("predictors", "import", str(file), about="on another gateway")


@predictors.command("import")
@click.argument("file", type=File)
@pass_session
def import_predictor(session: AdminSession, file: Path) -> None:
    """Read a version from a file and keep it inactive."""
    version = session.client.send(
        "/admin/predictors/import", file.read_bytes(), "application/octet-stream"
    )
    _show(session, version)
    session.output.next_step("predictors", "compare", version["id"], "active")


def _show(session: AdminSession, version: Mapping[str, Any]) -> None:
    """Print a version: its fields, and its scorecards as a table."""
    output = session.output
    if output.as_json:
        output.item(version)
        return
    cards = scorecards(version["metrics"])
    others = {k: v for k, v in version["metrics"].items() if not isinstance(v, dict)}
    output.item({**version, "metrics": others})
    if cards:
        output.text("")
        output.table(cards, SCORECARD_COLUMNS)
