"""`lmaas demo`: what the gateway does, shown on a running one."""

from contextlib import closing
from pathlib import Path

import click
from rich.console import Console

from gateway.cli.admin.client import AdminClient
from gateway.demo.demonstration import Wanted, demonstrate
from gateway.demo.examples import read_examples, read_instructions
from gateway.demo.picture import draw
from gateway.demo.table import NOTES, app_table, policy_table, summary
from gateway.errors import LmaasError
from gateway.settings import read_settings

LEAST_WIDTH = 100  # columns; the tables need them, where there is no terminal too


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The gateway.")
@click.option("--key", help="The admin key; else LMAAS_ADMIN_KEY, else <data folder>/admin_key.")
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=140,
    show_default=True,
    help="In each of three passes; the first training needs 100 in all.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Requests open at once, at most.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("demo.png"),
    show_default=True,
    help="Where to save the picture, a PNG.",
)
def demo(url: str, key: str | None, requests: int, concurrency: int, picture: Path) -> None:
    """Send traffic to a running gateway, train, send again; show lengths and response times.

    The server must serve a model with examples, such as the shipped one. The requests belong to a
    tenant of their own, `lmaas demo`; the figures are right on a server without other traffic.
    """
    settings = read_settings()
    wanted = Wanted(
        url,
        settings.model_name,
        read_examples(settings.model),
        read_instructions(settings.model),
        requests,
        concurrency,
    )
    if not picture.absolute().parent.is_dir():
        raise LmaasError(f"there is no folder {picture.absolute().parent} for the picture")
    console = Console()
    console.width = max(console.width, LEAST_WIDTH)
    with closing(AdminClient(url, key)) as admin:
        passes, learned = demonstrate(admin, wanted, console)
    draw(passes, picture)
    console.print()
    console.print(app_table(passes))
    console.print()
    console.print(policy_table(passes))
    console.print(NOTES)
    console.print(f"\n{summary(passes, learned)}\nThe picture is in {picture}.")
