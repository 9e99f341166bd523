"""`lmaas admin queue` and `lmaas admin requests …`: waiting and running requests."""

from uuid import UUID

import click

from gateway.cli.admin.client import AdminClient, pass_client, show, show_all


@click.command("queue")
@click.option("--tenant", type=click.UUID, help="Only this tenant's requests.")
@click.option("--limit", type=int, default=100, show_default=True, help="Most requests listed.")
@click.option("--totals", is_flag=True, help="Show the queue's totals instead.")
@pass_client
def show_queue(client: AdminClient, tenant: UUID | None, limit: int, *, totals: bool) -> None:
    """List running and waiting requests.

    Running requests by age, then waiting ones, the next to start first.
    """
    query = {"tenant": str(tenant)} if tenant else {}
    queue = client.get("/admin/queue", limit=limit, **query)
    if totals:
        show(queue["totals"])
    else:
        show_all(queue["data"])


@click.group()
def requests() -> None:
    """Single requests, by their id or their response's id."""


@requests.command("show")
@click.argument("request_id")
@pass_client
def show_request(client: AdminClient, request_id: str) -> None:
    """Show how a request was scheduled, and why it waited."""
    show(client.get(f"/admin/requests/{request_id}"))


@requests.command("cancel")
@click.argument("request_id")
@pass_client
def cancel_request(client: AdminClient, request_id: str) -> None:
    """Cancel a waiting or running request; its client gets an error."""
    show(client.post(f"/admin/requests/{request_id}/cancel"))
