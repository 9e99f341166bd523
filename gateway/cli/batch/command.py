"""`lmaas batch`: submits, watches and cancels batch jobs, and fetches their results."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from gateway.cli.batch.client import batch_client, client_options
from gateway.cli.batch.watching import watch_batch
from gateway.errors import LmaasError

WINDOWS: Final = ("24h", "4h", "1h")
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions")


class _LineUrl(msgspec.Struct):
    url: str


@click.group()
def batch() -> None:
    """Run many requests whose answers are not needed at once.

    FILE has a request per line, in OpenAI's format for batches.
    """


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@client_options
@click.option("--window", type=click.Choice(WINDOWS), default="24h", show_default=True)
@click.option(
    "--endpoint", type=click.Choice(ENDPOINTS), help="Default: the first line's url.", default=None
)
@click.option("--metadata", "pairs", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--watch", is_flag=True, help="Wait until it has ended, and show its progress.")
def submit(
    file: Path,
    url: str | None,
    key: str | None,
    window: str,
    endpoint: str | None,
    pairs: tuple[str, ...],
    *,
    watch: bool,
) -> None:
    """Upload a file and create a batch; prints the batch."""
    with closing(batch_client(url, key)) as client:
        path = endpoint or _first_url(file)
        created = client.create(client.upload(file), path, window, _metadata(pairs))
        if watch:
            click.echo(created["id"], err=True)
            created = watch_batch(client, created["id"])
        _show(created)


@batch.command()
@click.argument("batch_id", metavar="ID")
@client_options
def watch(batch_id: str, url: str | None, key: str | None) -> None:
    """Show a batch's progress until it has ended."""
    with closing(batch_client(url, key)) as client:
        _show(watch_batch(client, batch_id))


@batch.command()
@click.argument("batch_id", metavar="ID")
@client_options
def cancel(batch_id: str, url: str | None, key: str | None) -> None:
    """Cancel a batch; what it has completed is kept."""
    with closing(batch_client(url, key)) as client:
        _show(client.cancel(batch_id))


@batch.command()
@click.argument("batch_id", metavar="ID")
@client_options
@click.option("--errors", is_flag=True, help="The lines of the error file instead.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where to write the lines. Default: standard output.",
)
def result(
    batch_id: str, url: str | None, key: str | None, output: Path | None, *, errors: bool
) -> None:
    """Fetch the answers of a batch that has ended."""
    kind = "error" if errors else "output"
    with closing(batch_client(url, key)) as client:
        found = client.show(batch_id)
        file_id = found[f"{kind}_file_id"]
        if file_id is None:
            raise LmaasError(f"the batch is {found['status']} and has no {kind} file")
        with client.content(file_id) as pieces:
            if output is None:
                sys.stdout.buffer.writelines(pieces)
                return
            with output.open("wb") as lines:
                lines.writelines(pieces)
    click.echo(f"{output}", err=True)


def _show(found: Any) -> None:
    click.echo(json.dumps(found, ensure_ascii=False, indent=2))


def _first_url(file: Path) -> str:
    """The endpoint that the file's first line names."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        return msgspec.json.decode(first, type=_LineUrl).url
    except msgspec.MsgspecError as error:
        raise LmaasError(f"{file}: the first line is no request: {error}") from error


def _metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if not given:
            raise click.UsageError(f"--metadata {pair}: accepted is NAME=VALUE")
        found[name] = value
    return found
