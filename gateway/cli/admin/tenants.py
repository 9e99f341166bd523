"""`lmaas admin tenants …`, `apps …` and `keys …`: the callers of the gateway."""

from collections.abc import Callable
from typing import Any, TypeAlias, get_args

import click

from engine.protocol import KvPlacement
from gateway.cli.admin.names import is_id
from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session

Command: TypeAlias = Callable[..., None]

TENANT_COLUMNS: Columns = {
    "name": "name",
    "share": "share",
    "learning": "learning",
    "created": "created_at",
}
APP_COLUMNS: Columns = {
    "name": "name",
    "instruction": "instruction",
    "share": "share",
    "memory": "memory",
    "created": "created_at",
}
KEY_COLUMNS: Columns = {
    "name": "name",
    "key": lambda key: f"{key['prefix']}…",
    "created": "created_at",
    "expires": "expires_at",
    "used": "last_used_at",
    "tiers": lambda key: ", ".join(key["service_tiers"] or ["any"]),
    "revoked": "revoked_at",
}


@click.group(cls=AdminGroup)
def tenants() -> None:
    """Tenants: the organisations or teams that share the engine."""


@tenants.command("create")
@click.argument("name")
@click.option(
    "--share", type=float, default=1.0, show_default=True, help="Its weight against other tenants."
)
@pass_session
def create_tenant(session: AdminSession, name: str, share: float) -> None:
    """Create a tenant."""
    session.output.item(session.client.post("/admin/tenants", name=name, share=share))
    session.output.next_step("apps", "create", name, "NAME")


@tenants.command("show")
@click.argument("tenant")
@pass_session
def show_tenant(session: AdminSession, tenant: str) -> None:
    """Show a tenant."""
    session.output.item(session.client.get(f"/admin/tenants/{session.names.tenant(tenant)}"))


@tenants.command("learning")
@click.argument("tenant")
@click.argument("state", type=click.Choice(["on", "off"]))
@pass_session
def set_learning(session: AdminSession, tenant: str, state: str) -> None:
    """Turn training on a tenant's requests on or off."""
    path = f"/admin/tenants/{session.names.tenant(tenant)}"
    session.output.item(session.client.patch(path, learning=state == "on"))
    if state == "off":
        session.output.next_step(
            "tenants", "erase", tenant, about="erases the samples that were kept until now"
        )
    else:
        session.output.next_step("predictors", "train", "--wait")


@tenants.command("share")
@click.argument("tenant")
@click.argument("share", type=float)
@pass_session
def set_share(session: AdminSession, tenant: str, share: float) -> None:
    """Set a tenant's weight against other tenants.

    SHARE is 0.01 to 100. New tenants have 1.
    """
    path = f"/admin/tenants/{session.names.tenant(tenant)}"
    session.output.item(session.client.patch(path, share=share))
    session.output.next_step("queue", "--tenant", tenant)


@tenants.command("rename")
@click.argument("tenant")
@click.argument("name")
@pass_session
def rename_tenant(session: AdminSession, tenant: str, name: str) -> None:
    """Give a tenant another name."""
    path = f"/admin/tenants/{session.names.tenant(tenant)}"
    session.output.item(session.client.patch(path, name=name))


@tenants.command("delete")
@click.argument("tenant")
@click.confirmation_option(
    prompt="A deleted tenant, its apps, keys, files and batches cannot be restored. Delete?"
)
@pass_session
def delete_tenant(session: AdminSession, tenant: str) -> None:
    """Delete a tenant with its apps, keys, files and batches.

    Usage and cost stay, under its name.
    """
    deleted = session.client.delete(f"/admin/tenants/{session.names.tenant(tenant)}")
    session.output.item(deleted)
    session.output.next_step(
        "audit", "--subject", deleted["id"], about="has `tenant.erased` once its data is erased"
    )


@tenants.command("erase")
@click.argument("tenant")
@click.option("--user", help="Only this end user's samples.")
@click.confirmation_option(
    prompt="Erased features, embeddings and users cannot be restored. Erase?"
)
@pass_session
def erase_samples(session: AdminSession, tenant: str, user: str | None) -> None:
    """Erase the training samples of a tenant or user.

    Usage figures stay.
    """
    query = {"user": user} if user else {}
    path = f"/admin/tenants/{session.names.tenant(tenant)}/samples"
    session.output.item(session.client.delete(path, **query))
    session.output.next_step(
        "tenants", "learning", tenant, "off", about="no samples are kept from then on"
    )


@tenants.command("erase-files")
@click.argument("tenant")
@click.confirmation_option(prompt="Erased files cannot be restored. Erase?")
@pass_session
def erase_files(session: AdminSession, tenant: str) -> None:
    """Erase every file of a tenant: uploads, and the output of batch jobs."""
    path = f"/admin/tenants/{session.names.tenant(tenant)}/files"
    session.output.item(session.client.delete(path))


@tenants.command("list")
@pass_session
def list_tenants(session: AdminSession) -> None:
    """List the tenants."""
    session.output.items(
        session.client.all("/admin/tenants"), TENANT_COLUMNS, none="there are no tenants"
    )


@click.group(cls=AdminGroup)
def apps() -> None:
    """Apps: the applications of a tenant."""


@apps.command("create")
@click.argument("tenant")
@click.argument("name")
@click.option("--instruction", help="System message for requests that have none.")
@click.option(
    "--share",
    type=float,
    default=1.0,
    show_default=True,
    help="Its weight against other apps of the tenant.",
)
@click.option(
    "--memory",
    type=click.Choice(get_args(KvPlacement)),
    default="device",
    show_default=True,
    help="Where keys and values may be that the device cannot hold.",
)
@pass_session
def create_app(
    session: AdminSession,
    tenant: str,
    name: str,
    instruction: str | None,
    share: float,
    memory: str,
) -> None:
    """Create an app of a tenant."""
    path = f"/admin/tenants/{session.names.tenant(tenant)}/apps"
    app = session.client.post(path, name=name, instruction=instruction, share=share, memory=memory)
    session.output.item(app)
    session.output.next_step(
        "keys", "create", app["id"] if is_id(tenant) else f"{tenant}/{name}", "NAME"
    )


@apps.command("rename")
@click.argument("app")
@click.argument("name")
@pass_session
def rename_app(session: AdminSession, app: str, name: str) -> None:
    """Give an app another name."""
    path = f"/admin/apps/{session.names.app(app)}"
    session.output.item(session.client.patch(path, name=name))


@apps.command("instruct")
@click.argument("app")
@click.argument("instruction")
@pass_session
def instruct_app(session: AdminSession, app: str, instruction: str) -> None:
    """Set the system message for requests that have none; an empty one removes it."""
    path = f"/admin/apps/{session.names.app(app)}"
    session.output.item(session.client.patch(path, instruction=instruction))


@apps.command("share")
@click.argument("app")
@click.argument("share", type=float)
@pass_session
def set_app_share(session: AdminSession, app: str, share: float) -> None:
    """Set an app's weight against other apps of its tenant.

    SHARE is 0.01 to 100. New apps have 1.
    """
    path = f"/admin/apps/{session.names.app(app)}"
    session.output.item(session.client.patch(path, share=share))


@apps.command("memory")
@click.argument("app")
@click.argument("memory", type=click.Choice(get_args(KvPlacement)))
@pass_session
def set_app_memory(session: AdminSession, app: str, memory: str) -> None:
    """Set where keys and values of an app's requests may be that the device cannot hold.

    It is for requests that do not say it themselves.
    """
    path = f"/admin/apps/{session.names.app(app)}"
    session.output.item(session.client.patch(path, memory=memory))


@apps.command("delete")
@click.argument("app")
@click.confirmation_option(prompt="A deleted app and its keys cannot be restored. Delete?")
@pass_session
def delete_app(session: AdminSession, app: str) -> None:
    """Delete an app with its keys.

    Its tenant's files, usage and cost stay.
    """
    deleted = session.client.delete(f"/admin/apps/{session.names.app(app)}")
    session.output.item(deleted)
    session.output.next_step(
        "audit", "--subject", deleted["id"], about="has `app.erased` once its data is erased"
    )


@apps.command("list")
@click.argument("tenant", required=False)
@pass_session
def list_apps(session: AdminSession, tenant: str | None) -> None:
    """List the apps of a tenant, or of all tenants."""
    if tenant is None:
        columns = {"tenant": "tenant", **APP_COLUMNS}
        session.output.items(session.client.all("/admin/apps"), columns, none="there are no apps")
        return
    path = f"/admin/tenants/{session.names.tenant(tenant)}/apps"
    session.output.items(
        session.client.all(path), APP_COLUMNS, none=f"the tenant {tenant} has no apps"
    )


def key_rules(command: Command) -> Command:
    """The options of what a key allows."""
    tiers = click.option(
        "--tiers", "service_tiers", help="Service tiers, with commas: default,flex,priority."
    )
    deadline = click.option(
        "--min-deadline-s", type=float, help="Least deadline of a request; 0: any."
    )
    return tiers(deadline(command))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as fields of the API."""
    given = {name: value for name, value in options.items() if value is not None}
    if "service_tiers" in given:
        given["service_tiers"] = [tier.strip() for tier in given["service_tiers"].split(",")]
    return given


@click.group(cls=AdminGroup)
def keys() -> None:
    """API keys of an app, for requests to /v1."""


@keys.command("create")
@click.argument("app")
@click.argument("name")
@click.option("--expires", help="Time with a zone: 2027-01-01T00:00:00Z. Default: never.")
@key_rules
@pass_session
def create_key(
    session: AdminSession, /, app: str, name: str, expires: str | None, **rules: Any
) -> None:
    """Create an API key of an app; its secret is shown once."""
    path = f"/admin/apps/{session.names.app(app)}/keys"
    session.output.item(session.client.post(path, name=name, expires_at=expires, **_given(rules)))
    session.output.hint(
        f"send requests to {session.server.url}/v1 with this secret as the API key; "
        "it is not shown again"
    )


@keys.command("list")
@click.argument("app")
@pass_session
def list_keys(session: AdminSession, app: str) -> None:
    """List the API keys of an app."""
    path = f"/admin/apps/{session.names.app(app)}/keys"
    session.output.items(session.client.all(path), KEY_COLUMNS, none=f"the app {app} has no keys")


@keys.command("show")
@click.argument("key")
@pass_session
def show_key(session: AdminSession, key: str) -> None:
    """Show an API key, without its secret."""
    session.output.item(session.client.get(f"/admin/keys/{session.names.key(key)}"))


@keys.command("update")
@click.argument("key")
@click.option("--name", help="Another name.")
@key_rules
@pass_session
def update_key(session: AdminSession, /, key: str, **changes: Any) -> None:
    """Change an API key's name, or what its requests may ask for."""
    path = f"/admin/keys/{session.names.key(key)}"
    session.output.item(session.client.patch(path, **_given(changes)))


@keys.command("rotate")
@click.argument("key")
@click.argument("name")
@click.option(
    "--overlap-s",
    type=float,
    default=86_400.0,
    show_default=True,
    help="Seconds for which the old key stays valid.",
)
@pass_session
def rotate_key(session: AdminSession, key: str, name: str, overlap_s: float) -> None:
    """Create a key NAME that takes the place of KEY; its secret is shown once."""
    path = f"/admin/keys/{session.names.key(key)}/rotate"
    new = session.client.post(path, name=name, overlap_s=overlap_s)
    session.output.item(new)
    app = new["app_id"] if is_id(key) else key.rpartition("/")[0]
    session.output.next_step("keys", "list", app, about="shows when the old key expires")


@keys.command("revoke")
@click.argument("key")
@pass_session
def revoke_key(session: AdminSession, key: str) -> None:
    """Revoke an API key."""
    revoked = session.client.delete(f"/admin/keys/{session.names.key(key)}")
    session.output.item(revoked)
    app = revoked["app_id"] if is_id(key) else key.rpartition("/")[0]
    session.output.next_step("keys", "list", app)
