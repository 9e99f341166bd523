"""`lmaas admin …`: the admin API from the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click

from gateway.cli.admin.client import AdminClient, Call, show, show_all
from gateway.cli.admin.predictors import predictors
from gateway.cli.admin.queue import requests, show_queue


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
    """Manage tenants, apps, keys, predictors, the queue and the engine of a running gateway.

    Every command prints JSON: one object, or one a line for a list.
    """
    context.obj = context.with_resource(_open(url, key))


@admin.group()
def tenants() -> None:
    """Tenants: who pays."""


@tenants.command("create")
@click.argument("name")
@click.option("--share", type=float, default=1.0, show_default=True, help="Its weight.")
@Call
def create_tenant(client: AdminClient, name: str, share: float) -> None:
    """Make a tenant."""
    show(client.post("/admin/tenants", name=name, share=share))


@tenants.command("show")
@click.argument("tenant_id", type=click.UUID)
@Call
def show_tenant(client: AdminClient, tenant_id: UUID) -> None:
    """Show a tenant."""
    show(client.get(f"/admin/tenants/{tenant_id}"))


@tenants.command("learning")
@click.argument("tenant_id", type=click.UUID)
@click.argument("state", type=click.Choice(["on", "off"]))
@Call
def set_learning(client: AdminClient, tenant_id: UUID, state: str) -> None:
    """Let the predictor learn from a tenant's requests, or not."""
    show(client.patch(f"/admin/tenants/{tenant_id}", learning=state == "on"))


@tenants.command("share")
@click.argument("tenant_id", type=click.UUID)
@click.argument("share", type=float)
@Call
def set_share(client: AdminClient, tenant_id: UUID, share: float) -> None:
    """Set a tenant's weight among tenants, 0.01 to 100; at first it is 1."""
    show(client.patch(f"/admin/tenants/{tenant_id}", share=share))


@tenants.command("erase")
@click.argument("tenant_id", type=click.UUID)
@click.option("--user", help="Only this user's samples.")
@click.confirmation_option(prompt="Features, embeddings and users cannot be brought back. Erase?")
@Call
def erase_samples(client: AdminClient, tenant_id: UUID, user: str | None) -> None:
    """Erase what was kept of a tenant's or a user's requests to learn from; usage stays."""
    query = {"user": user} if user else {}
    show(client.delete(f"/admin/tenants/{tenant_id}/samples", **query))


@tenants.command("list")
@Call
def list_tenants(client: AdminClient) -> None:
    """List the tenants."""
    show_all(client.all("/admin/tenants"))


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
    show(client.post(f"/admin/tenants/{tenant_id}/apps", name=name, instruction=instruction))


@apps.command("list")
@click.argument("tenant_id", type=click.UUID)
@Call
def list_apps(client: AdminClient, tenant_id: UUID) -> None:
    """List the apps of a tenant."""
    show_all(client.all(f"/admin/tenants/{tenant_id}/apps"))


@admin.group()
def keys() -> None:
    """API keys of an app."""


@keys.command("create")
@click.argument("app_id", type=click.UUID)
@click.argument("name")
@Call
def create_key(client: AdminClient, app_id: UUID, name: str) -> None:
    """Make an API key of an app; its secret is shown once."""
    show(client.post(f"/admin/apps/{app_id}/keys", name=name))


@keys.command("list")
@click.argument("app_id", type=click.UUID)
@Call
def list_keys(client: AdminClient, app_id: UUID) -> None:
    """List the API keys of an app."""
    show_all(client.all(f"/admin/apps/{app_id}/keys"))


@keys.command("revoke")
@click.argument("key_id", type=click.UUID)
@Call
def revoke_key(client: AdminClient, key_id: UUID) -> None:
    """Revoke an API key."""
    show(client.delete(f"/admin/keys/{key_id}"))


@admin.group("scoped-keys")
def scoped_keys() -> None:
    """Keys for a part of the admin API."""


@scoped_keys.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@Call
def create_scoped_key(client: AdminClient, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key with scopes: read, tenants, predictors, engine; its secret is shown once."""
    show(client.post("/admin/scoped-keys", name=name, scopes=list(scopes)))


@scoped_keys.command("list")
@Call
def list_scoped_keys(client: AdminClient) -> None:
    """List the keys for parts of the admin API."""
    show_all(client.all("/admin/scoped-keys"))


@scoped_keys.command("revoke")
@click.argument("key_id", type=click.UUID)
@Call
def revoke_scoped_key(client: AdminClient, key_id: UUID) -> None:
    """Revoke a key for a part of the admin API."""
    show(client.delete(f"/admin/scoped-keys/{key_id}"))


@admin.group()
def engine() -> None:
    """The engine: its state, and whether it is given requests."""


@engine.command("show")
@Call
def show_engine(client: AdminClient) -> None:
    """Show what it serves, its KV memory and its newest step."""
    show(client.get("/admin/engine"))


@engine.command("pause")
@Call
def pause_engine(client: AdminClient) -> None:
    """Compute nothing until resumed; requests wait."""
    show(client.post("/admin/engine/pause"))


@engine.command("drain")
@Call
def drain_engine(client: AdminClient) -> None:
    """Let running requests end and new ones wait until resumed."""
    show(client.post("/admin/engine/drain"))


@engine.command("resume")
@Call
def resume_engine(client: AdminClient) -> None:
    """End a pause or a drain."""
    show(client.post("/admin/engine/resume"))


@admin.command("drift")
@click.option("--app", type=click.UUID, help="Only this app.")
@click.option("--hours", type=float, default=168.0, show_default=True, help="How far back.")
@click.option("--buckets", type=int, default=28, show_default=True, help="Stretches of time.")
@Call
def show_drift(client: AdminClient, app: UUID | None, hours: float, buckets: int) -> None:
    """Show how good predictions were over time."""
    query = {"app": str(app)} if app else {}
    show(client.get("/admin/drift", hours=hours, buckets=buckets, **query))


@admin.command("audit")
@click.option("--subject", help="Only what was done to this id or name.")
@Call
def list_audit(client: AdminClient, subject: str | None) -> None:
    """List the newest steps that were taken, by whom, and when."""
    query = {"subject": subject} if subject else {}
    show_all(client.get("/admin/audit", limit=100, **query)["data"])


admin.add_command(predictors)
admin.add_command(show_queue)
admin.add_command(requests)
