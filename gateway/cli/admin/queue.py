"""`lmaas admin queue` and `lmaas admin requests …`: waiting, running and finished requests."""

from datetime import datetime
from typing import Any, Final

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminCommand, AdminGroup, AdminSession, pass_session
from gateway.cli.admin.usage.filters import filter_options, filter_query


def _band(found: list[float] | None) -> str:
    return "" if found is None else " to ".join(f"{each:.1f}" for each in found)


COLUMNS: Columns = {
    "state": "state",
    "position": "position",
    "tenant": "tenant",
    "app": "app",
    "lane": "lane",
    "share": "waits_for_share",
    "memory": "memory",
    "tier": "service_tier",
    "prompt": "prompt_tokens",
    "predicted": "predicted_tokens",
    "generated": "generated_tokens",
    "waited s": "waited_s",
    "starts in s": "expected_start_s",
    "ends in s": "expected_finish_s",
    "start p10, p90": lambda request: _band(request["expected_start_band_s"]),
    "id": "id",
}


FINISHED: Final[Columns] = {
    "arrived": "arrived_at",
    "tenant": lambda request: request["tenant"] or request["tenant_id"],
    "app": lambda request: request["app"] or request["app_id"],
    "user": "user",
    "model": "model",
    "tier": "service_tier",
    "prompt": "prompt_tokens",
    "generated": "generation_tokens",
    "end": lambda request: request["gave_up"] or request["finish_reason"],
    "waited s": "waited_s",
    "first token s": "first_token_s",
    "response s": "response_s",
    "id": "id",
}
MAX_PAGE: Final = 100
TIME: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])


@click.command("queue", cls=AdminCommand)
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--limit", type=int, default=100, show_default=True, help="Most requests listed.")
@click.option("--totals", is_flag=True, help="Show the queue's totals instead.")
@pass_session
def show_queue(session: AdminSession, tenant: str | None, limit: int, *, totals: bool) -> None:
    """List running and waiting requests.

    Running requests by age, then waiting ones, the next to start first.
    """
    query = {"tenant": session.names.tenant(tenant)} if tenant else {}
    queue = session.client.get("/admin/queue", limit=limit, **query)
    if totals:
        session.output.item(queue["totals"])
    else:
        session.output.items(queue["data"], COLUMNS, none="no request waits or runs")


@click.group(cls=AdminGroup)
def requests() -> None:
    """Finished requests; and single ones, by their id or their response's id."""


@requests.command("list")
@filter_options
@click.option(
    "--outcome",
    type=click.Choice(["stop", "length", "cancelled", "error", "lost"]),
    help="Only requests that ended so.",
)
@click.option("--since", type=TIME, help="Only those that arrived then or later, in local time.")
@click.option("--until", type=TIME, help="Only those that arrived before then, in local time.")
@click.option("--least-tokens", type=int, help="Only answers of this many tokens or more.")
@click.option("--most-tokens", type=int, help="Only answers of this many tokens or fewer.")
@click.option("--least-wait-s", type=float, help="Only those that waited at least this long.")
@click.option("--most-wait-s", type=float, help="Only those that waited at most this long.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MAX_PAGE,
    show_default=True,
    help="Most requests listed.",
)
@pass_session
def list_requests(
    session: AdminSession,
    /,
    *,
    outcome: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    **filters: Any,
) -> None:
    """List finished requests of all gateways, newest first."""
    wanted = filter_query(
        session.names,
        outcome=outcome,
        since=since.astimezone().isoformat() if since else None,
        until=until.astimezone().isoformat() if until else None,
        **filters,
    )
    found: list[dict[str, Any]] = []
    more = True
    while more and len(found) < limit:
        size = min(MAX_PAGE, limit - len(found))
        page = session.client.get("/admin/requests", limit=size, **wanted)
        found += page["data"]
        more, wanted["after"] = page["has_more"], page["next_after"]
    session.output.items(found, FINISHED, none="no request ended so")
    if more:
        session.output.hint("there are more requests: raise --limit, or set --until")


@requests.command("show")
@click.argument("request_id")
@pass_session
def show_request(session: AdminSession, request_id: str) -> None:
    """Show how a request was scheduled, and why it waited."""
    session.output.item(session.client.get(f"/admin/requests/{request_id}"))


@requests.command("cancel")
@click.argument("request_id")
@pass_session
def cancel_request(session: AdminSession, request_id: str) -> None:
    """Cancel a waiting or running request; its client gets an error."""
    session.output.item(session.client.post(f"/admin/requests/{request_id}/cancel"))
    session.output.next_step("queue")
