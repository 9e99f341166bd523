"""`lmaas admin queue` and `lmaas admin requests …`: waiting and running requests."""

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminCommand, AdminGroup, AdminSession, pass_session

COLUMNS: Columns = {
    "state": "state",
    "position": "position",
    "tenant": "tenant",
    "app": "app",
    "lane": "lane",
    "tier": "service_tier",
    "prompt": "prompt_tokens",
    "predicted": "predicted_tokens",
    "generated": "generated_tokens",
    "waited s": "waited_s",
    "starts in s": "expected_start_s",
    "ends in s": "expected_finish_s",
    "id": "id",
}


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
    """Single requests, by their id or their response's id."""


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
