"""`lmaas admin batches …`: the batch jobs of all tenants."""

from itertools import islice
from typing import Final, get_args

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session
from gateway.jobs.batches.states import Status

COLUMNS: Final[Columns] = {
    "created": "created_at",
    "tenant": "tenant",
    "app": "app",
    "model": "model",
    "status": "status",
    "lines": "total",
    "completed": "completed",
    "failed": "failed",
    "due": "expires_at",
    "ended": "ended_at",
    "error": "error",
    "id": "id",
}
MAX_PAGE: Final = 100


@click.group(cls=AdminGroup)
def batches() -> None:
    """Batch jobs of all tenants; `lmaas batch` runs jobs of one's own."""


@batches.command("list")
@click.option("--tenant", help="Only this tenant's, by name or id.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only those in this status.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MAX_PAGE,
    show_default=True,
    help="Most batches listed.",
)
@pass_session
def list_batches(session: AdminSession, tenant: str | None, status: str | None, limit: int) -> None:
    """List batches, newest first."""
    given = {"tenant": tenant and session.names.tenant(tenant), "status": status}
    query = {name: value for name, value in given.items() if value is not None}
    found = list(islice(session.client.all("/admin/batches", **query), limit + 1))
    session.output.items(found[:limit], COLUMNS, none="there is no such batch")
    if len(found) > limit:
        session.output.hint("there are more batches: raise --limit")
