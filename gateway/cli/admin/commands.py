"""`lmaas admin …`: the admin API from the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click

from gateway.cli.admin.client import AdminClient, pass_client, show, show_all
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
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="The gateway's address."
)
@click.option(
    "--key", help="The admin key. Default: LMAAS_ADMIN_KEY, else <data folder>/admin_key."
)
@click.pass_context
def admin(context: click.Context, url: str, key: str | None) -> None:
    """Manage a running gateway through its admin API.

    Every command prints JSON: one object, or one object per line for a list.
    """
    context.obj = context.with_resource(_open(url, key))


@admin.group()
def tenants() -> None:
    """Tenants: the organisations or teams that share the engine."""


@tenants.command("create")
@click.argument("name")
@click.option(
    "--share", type=float, default=1.0, show_default=True, help="Its weight against other tenants."
)
@pass_client
def create_tenant(client: AdminClient, name: str, share: float) -> None:
    """Create a tenant."""
    show(client.post("/admin/tenants", name=name, share=share))


@tenants.command("show")
@click.argument("tenant_id", type=click.UUID)
@pass_client
def show_tenant(client: AdminClient, tenant_id: UUID) -> None:
    """Show a tenant."""
    show(client.get(f"/admin/tenants/{tenant_id}"))


@tenants.command("learning")
@click.argument("tenant_id", type=click.UUID)
@click.argument("state", type=click.Choice(["on", "off"]))
@pass_client
def set_learning(client: AdminClient, tenant_id: UUID, state: str) -> None:
    """Turn training on a tenant's requests on or off."""
    show(client.patch(f"/admin/tenants/{tenant_id}", learning=state == "on"))


@tenants.command("share")
@click.argument("tenant_id", type=click.UUID)
@click.argument("share", type=float)
@pass_client
def set_share(client: AdminClient, tenant_id: UUID, share: float) -> None:
    """Set a tenant's weight against other tenants.

    SHARE is 0.01 to 100. New tenants have 1.
    """
    show(client.patch(f"/admin/tenants/{tenant_id}", share=share))


@tenants.command("erase")
@click.argument("tenant_id", type=click.UUID)
@click.option("--user", help="Only this end user's samples.")
@click.confirmation_option(
    prompt="Erased features, embeddings and users cannot be restored. Erase?"
)
@pass_client
def erase_samples(client: AdminClient, tenant_id: UUID, user: str | None) -> None:
    """Erase the training samples of a tenant or user.

    Usage figures stay.
    """
    query = {"user": user} if user else {}
    show(client.delete(f"/admin/tenants/{tenant_id}/samples", **query))


@tenants.command("list")
@pass_client
def list_tenants(client: AdminClient) -> None:
    """List the tenants."""
    show_all(client.all("/admin/tenants"))


@admin.group()
def apps() -> None:
    """Apps: the applications of a tenant."""


@apps.command("create")
@click.argument("tenant_id", type=click.UUID)
@click.argument("name")
@click.option("--instruction", help="System message for requests that have none.")
@pass_client
def create_app(client: AdminClient, tenant_id: UUID, name: str, instruction: str | None) -> None:
    """Create an app of a tenant."""
    show(client.post(f"/admin/tenants/{tenant_id}/apps", name=name, instruction=instruction))


@apps.command("list")
@click.argument("tenant_id", type=click.UUID)
@pass_client
def list_apps(client: AdminClient, tenant_id: UUID) -> None:
    """List the apps of a tenant."""
    show_all(client.all(f"/admin/tenants/{tenant_id}/apps"))


@admin.group()
def keys() -> None:
    """API keys of an app, for requests to /v1."""


@keys.command("create")
@click.argument("app_id", type=click.UUID)
@click.argument("name")
@pass_client
def create_key(client: AdminClient, app_id: UUID, name: str) -> None:
    """Create an API key of an app; its secret is shown once."""
    show(client.post(f"/admin/apps/{app_id}/keys", name=name))


@keys.command("list")
@click.argument("app_id", type=click.UUID)
@pass_client
def list_keys(client: AdminClient, app_id: UUID) -> None:
    """List the API keys of an app."""
    show_all(client.all(f"/admin/apps/{app_id}/keys"))


@keys.command("revoke")
@click.argument("key_id", type=click.UUID)
@pass_client
def revoke_key(client: AdminClient, key_id: UUID) -> None:
    """Revoke an API key."""
    show(client.delete(f"/admin/keys/{key_id}"))


@admin.group("scoped-keys")
def scoped_keys() -> None:
    """Keys for parts of the admin API."""


@scoped_keys.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@pass_client
def create_scoped_key(client: AdminClient, name: str, scopes: tuple[str, ...]) -> None:
    """Create a key of the admin API; its secret is shown once.

    SCOPES are one or more of read, tenants, predictors and engine.
    """
    show(client.post("/admin/scoped-keys", name=name, scopes=list(scopes)))


@scoped_keys.command("list")
@pass_client
def list_scoped_keys(client: AdminClient) -> None:
    """List the scoped keys."""
    show_all(client.all("/admin/scoped-keys"))


@scoped_keys.command("revoke")
@click.argument("key_id", type=click.UUID)
@pass_client
def revoke_scoped_key(client: AdminClient, key_id: UUID) -> None:
    """Revoke a scoped key."""
    show(client.delete(f"/admin/scoped-keys/{key_id}"))


@admin.group()
def engine() -> None:
    """The engine: show, pause, drain and resume it."""


@engine.command("show")
@pass_client
def show_engine(client: AdminClient) -> None:
    """Show the engine's model, KV memory and newest step."""
    show(client.get("/admin/engine"))


@engine.command("pause")
@pass_client
def pause_engine(client: AdminClient) -> None:
    """Stop all computation until resumed; requests wait."""
    show(client.post("/admin/engine/pause"))


@engine.command("drain")
@pass_client
def drain_engine(client: AdminClient) -> None:
    """Let running requests finish; new ones wait until resumed."""
    show(client.post("/admin/engine/drain"))


@engine.command("resume")
@pass_client
def resume_engine(client: AdminClient) -> None:
    """End a pause or a drain."""
    show(client.post("/admin/engine/resume"))


@admin.command("drift")
@click.option("--app", type=click.UUID, help="Only this app.")
@click.option(
    "--hours",
    type=float,
    default=168.0,
    show_default=True,
    help="Length of the period, which ends now.",
)
@click.option(
    "--buckets", type=int, default=28, show_default=True, help="Number of intervals in the period."
)
@pass_client
def show_drift(client: AdminClient, app: UUID | None, hours: float, buckets: int) -> None:
    """Show the accuracy of predictions over time."""
    query = {"app": str(app)} if app else {}
    show(client.get("/admin/drift", hours=hours, buckets=buckets, **query))


@admin.command("audit")
@click.option("--subject", help="Only entries about this id or name.")
@pass_client
def list_audit(client: AdminClient, subject: str | None) -> None:
    """List the newest changes: what, by whom and when."""
    query = {"subject": subject} if subject else {}
    show_all(client.get("/admin/audit", limit=100, **query)["data"])


admin.add_command(predictors)
admin.add_command(show_queue)
admin.add_command(requests)
