"""`lmaas admin …`: the admin API from the command line."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from gateway.cli.admin_client import AdminClient

Call = click.make_pass_decorator(AdminClient)


@contextmanager
def _open(url: str, key: str | None) -> Iterator[AdminClient]:
    client = AdminClient(url, key)
    try:
        yield client
    finally:
        client.close()


@click.group()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The gateway.")
@click.option("--key", help="The admin key; else LMAAS_ADMIN_KEY, else <data folder>/admin_key.")
@click.pass_context
def admin(context: click.Context, url: str, key: str | None) -> None:
    """Manage tenants, apps, keys, predictors and the engine of a running gateway.

    Every command prints JSON: one object, or one a line for a list.
    """
    context.obj = context.with_resource(_open(url, key))


@admin.group()
def tenants() -> None:
    """Tenants: who pays."""


@tenants.command("create")
@click.argument("name")
@Call
def create_tenant(client: AdminClient, name: str) -> None:
    """Make a tenant."""
    _show(client.post("/admin/tenants", name=name))


@tenants.command("list")
@Call
def list_tenants(client: AdminClient) -> None:
    """List the tenants."""
    _show_all(client.all("/admin/tenants"))


@admin.group()
def apps() -> None:
    """Apps of a tenant."""


@apps.command("create")
@click.argument("tenant_id", type=click.UUID)
@click.argument("name")
@click.option("--instruction", help="Serves requests that bring no system message.")
@Call
def create_app(client: AdminClient, tenant_id: UUID, name: str, instruction: str | None) -> None:
    """Make an app of a tenant."""
    _show(client.post(f"/admin/tenants/{tenant_id}/apps", name=name, instruction=instruction))


@apps.command("list")
@click.argument("tenant_id", type=click.UUID)
@Call
def list_apps(client: AdminClient, tenant_id: UUID) -> None:
    """List the apps of a tenant."""
    _show_all(client.all(f"/admin/tenants/{tenant_id}/apps"))


@admin.group()
def keys() -> None:
    """API keys of an app."""


@keys.command("create")
@click.argument("app_id", type=click.UUID)
@click.argument("name")
@Call
def create_key(client: AdminClient, app_id: UUID, name: str) -> None:
    """Make an API key of an app; its secret is shown once."""
    _show(client.post(f"/admin/apps/{app_id}/keys", name=name))


@keys.command("list")
@click.argument("app_id", type=click.UUID)
@Call
def list_keys(client: AdminClient, app_id: UUID) -> None:
    """List the API keys of an app."""
    _show_all(client.all(f"/admin/apps/{app_id}/keys"))


@keys.command("revoke")
@click.argument("key_id", type=click.UUID)
@Call
def revoke_key(client: AdminClient, key_id: UUID) -> None:
    """Revoke an API key."""
    _show(client.delete(f"/admin/keys/{key_id}"))


@admin.group()
def predictors() -> None:
    """Versions of the length predictor."""


@predictors.command("train")
@click.option("--activate/--keep", default=True, help="Put it to work if it is no worse.")
@Call
def train(client: AdminClient, *, activate: bool) -> None:
    """Start training a version; `runs` tells how it goes."""
    _show(client.post("/admin/predictors", activate=activate))


@predictors.command("runs")
@Call
def list_runs(client: AdminClient) -> None:
    """List the newest training runs."""
    _show_all(client.get("/admin/training-runs", limit=100)["data"])


@predictors.command("list")
@Call
def list_predictors(client: AdminClient) -> None:
    """List the newest versions."""
    _show_all(client.get("/admin/predictors", limit=100)["data"])


@predictors.command("show")
@click.argument("predictor_id", type=click.UUID)
@Call
def show_predictor(client: AdminClient, predictor_id: UUID) -> None:
    """Show a version with its metrics."""
    _show(client.get(f"/admin/predictors/{predictor_id}"))


@predictors.command("activate")
@click.argument("predictor_id", type=click.UUID)
@Call
def activate_predictor(client: AdminClient, predictor_id: UUID) -> None:
    """Put a version to work in every gateway."""
    _show(client.post(f"/admin/predictors/{predictor_id}/activate"))


@admin.group()
def engine() -> None:
    """The engine: its state, and whether it is given requests."""


@engine.command("show")
@Call
def show_engine(client: AdminClient) -> None:
    """Show what it serves, its KV memory and its newest step."""
    _show(client.get("/admin/engine"))


@engine.command("pause")
@Call
def pause_engine(client: AdminClient) -> None:
    """Compute nothing until resumed; requests wait."""
    _show(client.post("/admin/engine/pause"))


@engine.command("drain")
@Call
def drain_engine(client: AdminClient) -> None:
    """Let running requests end and new ones wait until resumed."""
    _show(client.post("/admin/engine/drain"))


@engine.command("resume")
@Call
def resume_engine(client: AdminClient) -> None:
    """End a pause or a drain."""
    _show(client.post("/admin/engine/resume"))


def _show(item: dict[str, Any]) -> None:
    click.echo(json.dumps(item, ensure_ascii=False, indent=2))


def _show_all(items: Iterable[dict[str, Any]]) -> None:
    for item in items:
        click.echo(json.dumps(item, ensure_ascii=False))
