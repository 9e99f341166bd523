"""Prints what the admin API answers: tables for people, JSON for programs."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Item: TypeAlias = Mapping[str, Any]
# By heading: a field's name, with dots between those of nested objects, or a function of the item.
Columns: TypeAlias = Mapping[str, str | Callable[[Item], Any]]

PIPE_WIDTH: Final = 100_000  # columns without a terminal: no line is folded
MAX_TEXT: Final = 60  # characters of a text in a table with one row per item
NOTHING: Final = "-"
FOLDED: Final = {"instruction", "error", "subject", "after"}  # columns of texts, which may be long


class Output:
    """Prints to standard output; if `as_json` is set, exactly the API's objects."""

    def __init__(self) -> None:
        self.as_json = False

    def item(self, item: Item, *, without: Sequence[str] = ()) -> None:
        """An object: a line for each field, except those in `without`."""
        if self.as_json:
            click.echo(json.dumps(item, ensure_ascii=False, indent=2))
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, value in flattened(item):
            if name.partition(".")[0] not in without:
                table.add_row(name, Text(shown(value)))
        _print(table)

    def items(self, items: Iterable[Item], columns: Columns, *, none: str) -> None:
        """A list: a line for each object, or `none`, on standard error, if there are none."""
        if self.as_json:
            for item in items:
                click.echo(json.dumps(item, ensure_ascii=False))
            return
        rows = list(items)
        if rows:
            self.table(rows, columns)
        else:
            click.echo(none, err=True)

    def table(self, rows: Iterable[Item], columns: Columns) -> None:
        """A line for each object; nothing as JSON, where it is part of another object."""
        if self.as_json:
            return
        on_terminal = Console().is_terminal
        table = Table(box=SIMPLE_HEAD if on_terminal else None, pad_edge=False)
        for heading in columns:
            table.add_column(heading, no_wrap=heading not in FOLDED, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_short(shown(_read(row, field)))) for field in columns.values()))
        _print(table)

    def text(self, line: str) -> None:
        """A sentence for people."""
        if not self.as_json:
            click.echo(line)

    def next_step(self, *command: str, about: str = "") -> None:
        """The command of `lmaas admin` that is useful next, on standard error."""
        if not self.as_json:
            click.echo(
                f"next: lmaas admin {shlex.join(command)}{about and f'  # {about}'}", err=True
            )

    def hint(self, text: str) -> None:
        """What is useful next, where it is no command of `lmaas admin`."""
        if not self.as_json:
            click.echo(f"next: {text}", err=True)


def flattened(item: Item, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of an object, those of nested ones under names with dots."""
    for name, value in item.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def shown(value: Any) -> str:
    """A value of the API for people: times of this time zone, three decimals, no line breaks."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case list():
            return ", ".join(shown(each) for each in value) or NOTHING
        case dict():
            return ", ".join(f"{k}={shown(each)}" for k, each in value.items()) or NOTHING
    text = str(value)
    return _time(text) or "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _time(text: str) -> str | None:
    """An ISO 8601 time with a zone, as a time of this zone; None for another text."""
    if "T" not in text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return f"{found.astimezone():%Y-%m-%d %H:%M:%S}" if found.tzinfo else None


def _read(item: Item, field: str | Callable[[Item], Any]) -> Any:
    if callable(field):
        return field(item)
    value: Any = item
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = PIPE_WIDTH
    with console.capture() as plain:
        console.print(table)
    for line in plain.get().splitlines():
        click.echo(line.rstrip())
