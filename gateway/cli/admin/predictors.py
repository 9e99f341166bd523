"""`lmaas admin predictors …`: the length predictor's life cycle from the command line."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from gateway.cli.admin.client import AdminClient, Call, show, show_all
from gateway.errors import InvalidRequest

File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def predictors() -> None:
    """Versions of the length predictor."""


@predictors.command("train")
@click.option("--activate/--keep", default=True, help="Put it to work if it is no worse.")
@Call
def train(client: AdminClient, *, activate: bool) -> None:
    """Start training a version; `runs` tells how it goes."""
    show(client.post("/admin/predictors", activate=activate))


@predictors.command("runs")
@Call
def list_runs(client: AdminClient) -> None:
    """List the newest training runs."""
    show_all(client.get("/admin/training-runs", limit=100)["data"])


@predictors.command("list")
@Call
def list_predictors(client: AdminClient) -> None:
    """List the newest versions."""
    show_all(client.get("/admin/predictors", limit=100)["data"])


@predictors.command("show")
@click.argument("predictor_id", type=click.UUID)
@Call
def show_predictor(client: AdminClient, predictor_id: UUID) -> None:
    """Show a version with its metrics."""
    show(client.get(f"/admin/predictors/{predictor_id}"))


@predictors.command("activate")
@click.argument("predictor_id", type=click.UUID)
@Call
def activate_predictor(client: AdminClient, predictor_id: UUID) -> None:
    """Put a version to work in every gateway."""
    show(client.post(f"/admin/predictors/{predictor_id}/activate"))


@predictors.command("rollback")
@Call
def roll_back(client: AdminClient) -> None:
    """Put the version to work again that was active before."""
    show(client.post("/admin/predictors/rollback"))


@predictors.command("compare")
@click.argument("predictor_id", type=click.UUID)
@click.argument("other_id", type=click.UUID)
@Call
def compare(client: AdminClient, predictor_id: UUID, other_id: UUID) -> None:
    """Show two versions side by side, both scored on the newest history."""
    show(client.get(f"/admin/predictors/{predictor_id}/compare/{other_id}"))


@predictors.command("export")
@click.argument("predictor_id", type=click.UUID)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@Call
def export_predictor(client: AdminClient, predictor_id: UUID, file: Path) -> None:
    """Write a version into a file."""
    stored = client.fetch(f"/admin/predictors/{predictor_id}/export")
    file.write_bytes(stored)
    show({"file": str(file), "bytes": len(stored)})


@predictors.command("import")
@click.argument("file", type=File)
@Call
def import_predictor(client: AdminClient, file: Path) -> None:
    """Take a version from a file, inactive."""
    show(client.send("/admin/predictors/import", file.read_bytes(), "application/octet-stream"))


@predictors.command("learn")
@click.argument("file", type=File)
@Call
def import_samples(client: AdminClient, file: Path) -> None:
    """Add a log to what training reads: a JSON object a line, all of them or none.

    Each has `app`, `input`, and `output` or its length in `tokens`; it may have `instruction`,
    `user`, `max_tokens`, `temperature`, `top_p` and `cut_off`.
    """
    show(client.send("/admin/predictors/samples", file.read_bytes(), "application/x-ndjson"))


@predictors.command("cancel")
@click.argument("run_id", type=click.UUID)
@Call
def cancel_run(client: AdminClient, run_id: UUID) -> None:
    """Cancel a training run, whichever gateway it is of."""
    show(client.post(f"/admin/training-runs/{run_id}/cancel"))


@predictors.command("run")
@click.argument("run_id", type=click.UUID)
@Call
def show_run(client: AdminClient, run_id: UUID) -> None:
    """Show a training run: its phase, and what it read of each tenant."""
    show(client.get(f"/admin/training-runs/{run_id}"))


@predictors.command("schedule")
@click.argument("changes", nargs=-1, metavar="[FIELD=VALUE]...")
@Call
def schedule(client: AdminClient, changes: tuple[str, ...]) -> None:
    """Show when training starts by itself, or change fields of it: every_s=3600 drift=false."""
    if changes:
        now = client.get("/admin/training-schedule")["schedule"]
        client.put("/admin/training-schedule", **now | dict(_change(each) for each in changes))
    show(client.get("/admin/training-schedule"))


def _change(given: str) -> tuple[str, Any]:
    """A field and its value, which is JSON. InvalidRequest."""
    field, _, value = given.partition("=")
    try:
        return field, json.loads(value)
    except ValueError as error:
        raise InvalidRequest(
            f"{given!r}: give a field and its value, as in every_s=3600"
        ) from error
