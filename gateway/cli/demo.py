"""`lmaas demo`: demonstrates length prediction and scheduling on a running gateway."""

from contextlib import closing
from pathlib import Path

import click
from rich.console import Console

from gateway.cli.admin.client import AdminClient
from gateway.cli.admin.server import find_server, server_options
from gateway.demo.demonstration import DemoPlan, demonstrate
from gateway.demo.picture import draw
from gateway.demo.table import NOTES, app_table, policy_table, summary
from gateway.errors import LmaasError

MIN_TABLE_WIDTH = 100  # columns that the tables need, also without a terminal


@click.command()
@server_options
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=140,
    show_default=True,
    help="Requests in each of three passes. A first training needs 100 in history.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Most requests open at the same time.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("demo.png"),
    show_default=True,
    help="Where to save the plots (PNG).",
)
def demo(url: str | None, key: str | None, requests: int, concurrency: int, picture: Path) -> None:
    """Demonstrate prediction and scheduling.

    Sends traffic to a running gateway in three passes: before training; after training, with new
    questions; and those questions again under the policy fixed. Prints predicted and actual
    lengths, and response times.

    A model with examples in its folder, such as the shipped demo model, gets those; any other
    model gets eight jobs in plain English. The requests belong to a tenant of their own,
    `lmaas demo`. The results are only valid on a gateway without other traffic.
    """
    server = find_server(url, key)
    if not picture.absolute().parent.is_dir():
        raise LmaasError(f"there is no folder {picture.absolute().parent} for the plots")
    console = Console()
    console.width = max(console.width, MIN_TABLE_WIDTH)
    with closing(AdminClient.of(server)) as admin:
        passes, training = demonstrate(admin, DemoPlan(server.url, requests, concurrency), console)
    draw(passes, picture)
    console.print()
    console.print(app_table(passes))
    console.print()
    console.print(policy_table(passes))
    console.print(NOTES)
    console.print(f"\n{summary(passes, training)}\nThe plots are in {picture}.")
