"""`lmaas admin usage`: what was used, and what it cost."""

from datetime import datetime
from typing import Any, Final

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminCommand, AdminSession, pass_session

GROUPS: Final[Columns] = {
    "day": "day",
    "tenant": lambda usage: usage["tenant"] or usage["tenant_id"],
    "app": lambda usage: usage["app"] or usage["app_id"],
    "key": lambda usage: usage["key"] or usage["key_id"],
    "user": "user",
    "model": "model",
    "tier": "tier",
}
SUMS: Final[Columns] = {
    "requests": "requests",
    "failed": "failed",
    "unpriced": "unpriced",
    "input": "prompt_tokens",
    "cached": "cached_tokens",
    "output": "generation_tokens",
    "cost": "cost",
}
DAY: Final = click.DateTime(["%Y-%m-%d"])


@click.command("usage", cls=AdminCommand)
@click.option("--since", type=DAY, help="First day, in UTC. Default: 30 days before the last.")
@click.option("--until", type=DAY, help="First day that is left out. Default: tomorrow.")
@click.option(
    "--by",
    type=click.Choice([*GROUPS]),
    multiple=True,
    default=["tenant"],
    show_default=True,
    help="What to sum by; may be repeated.",
)
@click.option("--tenant", help="Only this tenant, by name or id.")
@click.option("--app", help="Only this app, as TENANT/APP or by id.")
@click.option("--key", "api_key", help="Only this key, as TENANT/APP/KEY or by id.")
@click.option("--user", help="Only this end user.")
@click.option("--model", help="Only this model.")
@click.option("--tier", help="Only this service tier; batch: lines of jobs.")
@click.option("--limit", type=int, default=1000, show_default=True, help="Most lines.")
@pass_session
def show_usage(
    session: AdminSession,
    since: datetime | None,
    until: datetime | None,
    by: tuple[str, ...],
    tenant: str | None,
    app: str | None,
    api_key: str | None,
    user: str | None,
    model: str | None,
    tier: str | None,
    limit: int,
) -> None:
    """Sum requests, tokens and cost by tenant or what --by names.

    Days are UTC's. Failed requests use nothing; unpriced ones had no price when they arrived.
    """
    names = session.names
    query: dict[str, Any] = {
        "since": since and since.date().isoformat(),
        "until": until and until.date().isoformat(),
        "tenant": tenant and names.tenant(tenant),
        "app": app and names.app(app),
        "key": api_key and names.key(api_key),
        "user": user,
        "model": model,
        "tier": tier,
    }
    given = {name: value for name, value in query.items() if value is not None}
    page = session.client.get("/admin/usage", group_by=",".join(by), limit=limit, **given)
    columns = {heading: field for heading, field in GROUPS.items() if heading in by}
    session.output.items(page["data"], {**columns, **SUMS}, none="nothing was used in these days")
    if page["has_more"]:
        session.output.hint("there are more lines: raise --limit, or choose fewer days")
