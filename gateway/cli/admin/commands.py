"""`lmaas admin …`: the admin API from the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from gateway.cli.admin.drift import show_drift
from gateway.cli.admin.engine import engine
from gateway.cli.admin.predictors import predictors
from gateway.cli.admin.queue import requests, show_queue
from gateway.cli.admin.scoped_keys import scoped_keys
from gateway.cli.admin.server import server_options
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session
from gateway.cli.admin.tenants import apps, keys, tenants
from gateway.cli.admin.usage.batches import batches
from gateway.cli.admin.usage.limits import limits
from gateway.cli.admin.usage.prices import prices
from gateway.cli.admin.usage.usage import show_usage


@contextmanager
def _session(url: str | None, key: str | None) -> Iterator[AdminSession]:
    session = AdminSession(url, key)
    try:
        yield session
    finally:
        session.close()


@click.group(cls=AdminGroup)
@server_options
@click.pass_context
def admin(context: click.Context, url: str | None, key: str | None) -> None:
    """Manage a running gateway through its admin API.

    Tenants, apps and keys are given by name, as TENANT, TENANT/APP and TENANT/APP/KEY, or by id.
    """
    context.obj = context.with_resource(_session(url, key))


@admin.command("audit")
@click.option("--subject", help="Only entries about this id or name.")
@pass_session
def list_audit(session: AdminSession, subject: str | None) -> None:
    """List the newest changes: what, by whom and when."""
    query = {"subject": subject} if subject else {}
    session.output.items(
        session.client.get("/admin/audit", limit=100, **query)["data"],
        {"at": "at", "by": "actor", "action": "action", "subject": "subject", "after": "after"},
        none="no change is recorded",
    )


for command in (
    *(tenants, apps, keys, scoped_keys, predictors, engine),
    *(show_queue, requests, batches, show_drift, show_usage, prices, limits),
):
    admin.add_command(command)
