"""`lmaas admin queue` and `lmaas admin requests …`: what waits and runs, and why."""

from uuid import UUID

import click

from gateway.cli.admin.client import AdminClient, Call, show, show_all


@click.command("queue")
@click.option("--tenant", type=click.UUID, help="Only this tenant's requests.")
@click.option("--limit", type=int, default=100, show_default=True, help="Most requests wanted.")
@click.option("--totals", is_flag=True, help="Show the queue in sum instead.")
@Call
def show_queue(client: AdminClient, tenant: UUID | None, limit: int, *, totals: bool) -> None:
    """List the requests that run and wait, the next to start first."""
    query = {"tenant": str(tenant)} if tenant else {}
    queue = client.get("/admin/queue", limit=limit, **query)
    if totals:
        show(queue["totals"])
    else:
        show_all(queue["data"])


@click.group()
def requests() -> None:
    """Single requests, by their id or that of their answer."""


@requests.command("show")
@click.argument("request_id")
@Call
def show_request(client: AdminClient, request_id: str) -> None:
    """Show why a request waited as long as it did."""
    show(client.get(f"/admin/requests/{request_id}"))


@requests.command("cancel")
@click.argument("request_id")
@Call
def cancel_request(client: AdminClient, request_id: str) -> None:
    """End a request that waits or runs; its client is told."""
    show(client.post(f"/admin/requests/{request_id}/cancel"))
