"""`lmaas admin prices …`: what tokens cost."""

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session

COLUMNS: Columns = {
    "model": "model",
    "tier": lambda price: price["service_tier"] or "any",
    "input": "input",
    "cached": "cached_input",
    "output": "output",
    "from": "valid_from",
    "until": "valid_until",
    "id": "id",
}


@click.group(cls=AdminGroup)
def prices() -> None:
    """Prices of a model per million tokens, in one currency of your choice."""


@prices.command("set")
@click.argument("model")
@click.option("--input", "paid", required=True, help="Price of a million prompt tokens: 0.15.")
@click.option("--output", required=True, help="Price of a million generated tokens.")
@click.option("--cached-input", help="Price of a million cached prompt tokens. Default: --input.")
@click.option("--tier", help="Only this service tier. Default: all without a price of their own.")
@click.option("--from", "begins", help="Time with a zone: 2027-01-01T00:00:00Z. Default: now.")
@click.option("--until", help="Time with a zone. Default: until the next price.")
@pass_session
def set_price(
    session: AdminSession,
    model: str,
    *,
    paid: str,
    output: str,
    cached_input: str | None,
    tier: str | None,
    begins: str | None,
    until: str | None,
) -> None:
    """Set a model's price from now or later on.

    The price before it ends then.
    """
    price = session.client.post(
        "/admin/prices",
        model=model,
        input=paid,
        output=output,
        cached_input=cached_input,
        service_tier=tier,
        valid_from=begins,
        valid_until=until,
    )
    session.output.item(price)
    session.output.next_step("usage", "--model", model)


@prices.command("list")
@pass_session
def list_prices(session: AdminSession) -> None:
    """List past, present and future prices."""
    session.output.items(session.client.all("/admin/prices"), COLUMNS, none="there are no prices")


@prices.command("end")
@click.argument("price_id")
@pass_session
def end_price(session: AdminSession, price_id: str) -> None:
    """End a price now, or delete one that has not begun; costs until now stay."""
    session.output.item(session.client.delete(f"/admin/prices/{price_id}"))
    session.output.next_step("prices", "list")
