"""`lmaas admin scoped-keys …`: keys for parts of the admin API."""

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session

COLUMNS: Columns = {
    "name": "name",
    "scopes": "scopes",
    "key": lambda key: f"{key['prefix']}…",
    "created": "created_at",
    "revoked": "revoked_at",
}


@click.group("scoped-keys", cls=AdminGroup)
def scoped_keys() -> None:
    """Keys for parts of the admin API."""


@scoped_keys.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@pass_session
def create_scoped_key(session: AdminSession, name: str, scopes: tuple[str, ...]) -> None:
    """Create a key of the admin API; its secret is shown once.

    SCOPES are one or more of read, tenants, predictors and engine.
    """
    session.output.item(session.client.post("/admin/scoped-keys", name=name, scopes=list(scopes)))
    session.output.hint(
        "give this secret to its user, as LMAAS_ADMIN_KEY for lmaas admin; it is not shown again"
    )


@scoped_keys.command("list")
@pass_session
def list_scoped_keys(session: AdminSession) -> None:
    """List the scoped keys."""
    session.output.items(
        session.client.all("/admin/scoped-keys"), COLUMNS, none="there are no scoped keys"
    )


@scoped_keys.command("revoke")
@click.argument("key")
@pass_session
def revoke_scoped_key(session: AdminSession, key: str) -> None:
    """Revoke a scoped key, given by name or id."""
    key_id = session.names.scoped_key(key)
    session.output.item(session.client.delete(f"/admin/scoped-keys/{key_id}"))
    session.output.next_step("scoped-keys", "list")
