"""`lmaas admin usage`: what was used, and what it cost."""

from datetime import datetime
from typing import Final

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminCommand, AdminSession, pass_session
from gateway.cli.admin.usage.filters import filter_options, filter_query

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
@filter_options
@click.option("--limit", type=int, default=1000, show_default=True, help="Most lines.")
@pass_session
def show_usage(
    session: AdminSession,
    /,
    *,
    since: datetime | None,
    until: datetime | None,
    by: tuple[str, ...],
    limit: int,
    **filters: str | None,
) -> None:
    """Sum requests, tokens and cost by tenant or what --by names.

    Days are UTC's. Failed requests use nothing; unpriced ones had no price when they arrived.
    """
    query = filter_query(
        session.names,
        since=since.date().isoformat() if since else None,
        until=until.date().isoformat() if until else None,
        **filters,
    )
    page = session.client.get("/admin/usage", group_by=",".join(by), limit=limit, **query)
    columns = {heading: field for heading, field in GROUPS.items() if heading in by}
    session.output.items(page["data"], {**columns, **SUMS}, none="nothing was used in these days")
    if page["has_more"]:
        session.output.hint("there are more lines: raise --limit, or choose fewer days")
