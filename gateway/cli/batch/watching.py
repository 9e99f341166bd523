"""Shows the progress of a batch until it ends."""

import time
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.cli.batch.client import BatchClient

POLL_S: Final = 1.0
ENDED: Final = ("completed", "failed", "expired", "cancelled")


def watch_batch(client: BatchClient, batch_id: str, *, poll_s: float = POLL_S) -> Any:
    """The batch once it has ended; meanwhile a bar on a terminal, a line per change elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        return _with_bar(client, batch_id, console, poll_s)
    return _with_lines(client, batch_id, poll_s)


def _with_bar(client: BatchClient, batch_id: str, console: Console, poll_s: float) -> Any:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[expected]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("validating", total=None, expected="")
        while True:
            batch = client.show(batch_id)
            counts = batch["request_counts"]
            progress.update(
                bar,
                description=batch["status"],
                total=counts["total"] or None,
                completed=counts["completed"] + counts["failed"],
                expected=expected(batch),
            )
            if batch["status"] in ENDED:
                return batch
            time.sleep(poll_s)


def _with_lines(client: BatchClient, batch_id: str, poll_s: float) -> Any:
    shown = ""
    while True:
        batch = client.show(batch_id)
        if (line := described(batch)) != shown:
            click.echo(line, err=True)
            shown = line
        if batch["status"] in ENDED:
            return batch
        time.sleep(poll_s)


def described(batch: Any) -> str:
    """A batch in a line."""
    counts = batch["request_counts"]
    return (
        f"{batch['status']}: {counts['completed']} completed, {counts['failed']} failed of "
        f"{counts['total']}"
    )


def expected(batch: Any) -> str:
    """When it is expected to be done, in this time zone."""
    band = batch.get("expected_completion")
    if not band:
        return ""
    early, late = (datetime.fromtimestamp(band[name]).astimezone() for name in ("p10", "p90"))
    return f"done {early:%H:%M:%S} to {late:%H:%M:%S}"
