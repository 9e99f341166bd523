"""`lmaas admin limits …`: how much tenants, apps, keys, users and the node may use."""

from typing import Any, get_args

import click

from gateway.cli.admin.names import is_id
from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session
from gateway.errors import InvalidRequest, NotFound
from gateway.limits.limit import BOUNDED, Effect, Level

NODE = "node"
COLUMNS: Columns = {
    "level": "level",
    "owner": lambda limit: limit["owner"] or NODE,
    "kind": "kind",
    "value": "value",
    "effect": "effect",
    "changed": "changed_at",
    "id": "id",
}
LEVELS = click.Choice(get_args(Level))


@click.group(cls=AdminGroup)
def limits() -> None:
    """Limits on requests, tokens, cost and memory.

    OWNER is TENANT, TENANT/APP, TENANT/APP/KEY, or `node` for all requests of a gateway. An id
    needs --level.
    """


@limits.command("set")
@click.argument("owner")
@click.argument("kind", type=click.Choice(list(BOUNDED)))
@click.argument("value")
@click.option(
    "--effect",
    type=click.Choice(get_args(Effect)),
    default="hard",
    show_default=True,
    help="Beyond it: refuse, wait behind lighter users, or run and say so.",
)
@click.option("--each-user", is_flag=True, help="For each user of the app by itself.")
@click.option("--level", type=LEVELS, help="What OWNER is. Default: by the slashes in it.")
@pass_session
def set_limit(
    session: AdminSession,
    owner: str,
    kind: str,
    value: str,
    effect: str,
    *,
    each_user: bool,
    level: str | None,
) -> None:
    """Set a limit, or change the value of one that there is.

    VALUE is a number of requests or tokens, an amount of money, or a share of the KV memory.
    """
    of = _owner(session, owner, "user" if each_user else level)
    body = {"kind": kind, "value": value, "effect": effect}
    session.output.item(session.client.put("/admin/limits", **of, **body))
    session.output.next_step("limits", "list", owner)


@limits.command("list")
@click.argument("owner", required=False)
@click.option("--level", type=LEVELS, help="What OWNER is, or all limits of this level.")
@pass_session
def list_limits(session: AdminSession, owner: str | None, level: str | None) -> None:
    """List limits: all, or those of an owner."""
    query: dict[str, Any] = {} if level is None else {"level": level}
    if owner is not None:
        query = _owner(session, owner, level)
    found = session.client.all("/admin/limits", **query)
    session.output.items(found, COLUMNS, none="there are no limits")


@limits.command("remove")
@click.argument("owner")
@click.argument("kind", type=click.Choice(list(BOUNDED)))
@click.option("--effect", type=click.Choice(get_args(Effect)), help="Which, if there are several.")
@click.option("--each-user", is_flag=True, help="The limit of each user of the app.")
@click.option("--level", type=LEVELS, help="What OWNER is. Default: by the slashes in it.")
@pass_session
def remove_limit(
    session: AdminSession,
    owner: str,
    kind: str,
    *,
    effect: str | None,
    each_user: bool,
    level: str | None,
) -> None:
    """Remove a limit."""
    of = _owner(session, owner, "user" if each_user else level)
    found = [
        limit
        for limit in session.client.all("/admin/limits", **of)
        if limit["kind"] == kind and effect in {None, limit["effect"]}
    ]
    if not found:
        raise NotFound(f"{owner} has no such limit of {kind}")
    if len(found) > 1:
        effects = ", ".join(limit["effect"] for limit in found)
        raise InvalidRequest(f"{owner} has several limits of {kind}; choose --effect: {effects}")
    session.output.item(session.client.delete(f"/admin/limits/{found[0]['id']}"))
    session.output.next_step("limits", "list", owner)


def _owner(session: AdminSession, owner: str, level: str | None) -> dict[str, str]:
    """Level and owner of a limit, as the API takes them."""
    if level == NODE or (owner == NODE and level is None):
        return {"level": NODE}
    if level is None:
        if is_id(owner):
            raise InvalidRequest("an id needs --level: tenant, app, key or user")
        level = {0: "tenant", 1: "app"}.get(owner.count("/"), "key")
    names = session.names
    find = {"tenant": names.tenant, "key": names.key}.get(level, names.app)
    return {"level": level, "owner": find(owner)}
