"""`lmaas admin predictors …`: train, compare, activate and move versions of the predictor."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from gateway.cli.admin.client import AdminClient, pass_client, show, show_all
from gateway.errors import InvalidRequest

File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def predictors() -> None:
    """Versions of the length predictor, and their training."""


@predictors.command("train")
@click.option(
    "--activate/--keep",
    default=True,
    show_default=True,
    help="Activate the new version if it is no worse than the active one, or keep it inactive.",
)
@pass_client
def train(client: AdminClient, *, activate: bool) -> None:
    """Start a training run; `run RUN_ID` shows its progress."""
    show(client.post("/admin/predictors", activate=activate))


@predictors.command("runs")
@pass_client
def list_runs(client: AdminClient) -> None:
    """List the newest training runs."""
    show_all(client.get("/admin/training-runs", limit=100)["data"])


@predictors.command("list")
@pass_client
def list_predictors(client: AdminClient) -> None:
    """List the newest versions."""
    show_all(client.get("/admin/predictors", limit=100)["data"])


@predictors.command("show")
@click.argument("predictor_id", type=click.UUID)
@pass_client
def show_predictor(client: AdminClient, predictor_id: UUID) -> None:
    """Show a version with its metrics."""
    show(client.get(f"/admin/predictors/{predictor_id}"))


@predictors.command("activate")
@click.argument("predictor_id", type=click.UUID)
@pass_client
def activate_predictor(client: AdminClient, predictor_id: UUID) -> None:
    """Activate a version in all gateways of the database."""
    show(client.post(f"/admin/predictors/{predictor_id}/activate"))


@predictors.command("rollback")
@pass_client
def roll_back(client: AdminClient) -> None:
    """Activate the previously active version again."""
    show(client.post("/admin/predictors/rollback"))


@predictors.command("compare")
@click.argument("predictor_id", type=click.UUID)
@click.argument("other_id", type=click.UUID)
@pass_client
def compare(client: AdminClient, predictor_id: UUID, other_id: UUID) -> None:
    """Compare two versions on the newest history."""
    show(client.get(f"/admin/predictors/{predictor_id}/compare/{other_id}"))


@predictors.command("export")
@click.argument("predictor_id", type=click.UUID)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_client
def export_predictor(client: AdminClient, predictor_id: UUID, file: Path) -> None:
    """Write a version into a file."""
    stored = client.fetch(f"/admin/predictors/{predictor_id}/export")
    file.write_bytes(stored)
    show({"file": str(file), "bytes": len(stored)})


@predictors.command("import")
@click.argument("file", type=File)
@pass_client
def import_predictor(client: AdminClient, file: Path) -> None:
    """Read a version from a file and keep it inactive."""
    show(client.send("/admin/predictors/import", file.read_bytes(), "application/octet-stream"))


@predictors.command("learn")
@click.argument("file", type=File)
@pass_client
def import_samples(client: AdminClient, file: Path) -> None:
    """Import a request log as training samples.

    All lines are imported or, if one is invalid, none. The file has a JSON object per line with
    `app` (the app's id), `input`, and `output` or its length in `tokens`. Optional: `instruction`,
    `user`, `max_tokens`, `temperature`, `top_p` and `cut_off` (true if the answer was cut at
    max_tokens).
    """
    show(client.send("/admin/predictors/samples", file.read_bytes(), "application/x-ndjson"))


@predictors.command("cancel")
@click.argument("run_id", type=click.UUID)
@pass_client
def cancel_run(client: AdminClient, run_id: UUID) -> None:
    """Cancel a training run, also one of another gateway."""
    show(client.post(f"/admin/training-runs/{run_id}/cancel"))


@predictors.command("run")
@click.argument("run_id", type=click.UUID)
@pass_client
def show_run(client: AdminClient, run_id: UUID) -> None:
    """Show a training run: phase, samples read per tenant."""
    show(client.get(f"/admin/training-runs/{run_id}"))


@predictors.command("schedule")
@click.argument("changes", nargs=-1, metavar="[FIELD=VALUE]...")
@pass_client
def schedule(client: AdminClient, changes: tuple[str, ...]) -> None:
    """Show or change the schedule of automatic training.

    Example: lmaas admin predictors schedule every_s=3600 drift=false
    """
    if changes:
        now = client.get("/admin/training-schedule")["schedule"]
        client.put(
            "/admin/training-schedule", **now | dict(_parse_change(each) for each in changes)
        )
    show(client.get("/admin/training-schedule"))


def _parse_change(given: str) -> tuple[str, Any]:
    """The field and the decoded value of FIELD=VALUE, whose value is JSON. InvalidRequest."""
    field, _, value = given.partition("=")
    try:
        return field, json.loads(value)
    except ValueError as error:
        raise InvalidRequest(
            f"{given!r} is not FIELD=VALUE with a JSON value, such as every_s=3600"
        ) from error
