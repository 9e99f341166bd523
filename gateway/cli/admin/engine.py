"""`lmaas admin engine …`: shows, pauses, drains and resumes the engines."""

from typing import Final

import click

from gateway.cli.admin.output import Columns, Item
from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session

PATH: Final = "/admin/engine"
COLUMNS: Final[Columns] = {
    "engine": "number",
    "address": "info.device",
    "connected": "connected",
    "refused": "refused",
    "paused": "paused",
    "draining": "draining",
    "running": "running",
    "KV pages": "kv.pages",
    "free": "kv.free",
}

of_engine = click.argument("number", type=click.IntRange(min=0), required=False)


@click.group(cls=AdminGroup)
def engine() -> None:
    """The engine, or engines: show, pause, drain and resume them.

    NUMBER is that of one engine among several, as `show` lists them; without it a command is for
    all.
    """


@engine.command("show")
@pass_session
def show_engine(session: AdminSession) -> None:
    """Show model, KV memory and newest step, of all engines as one and of each."""
    _show(session, session.client.get(PATH))


@engine.command("pause")
@of_engine
@pass_session
def pause_engine(session: AdminSession, number: int | None) -> None:
    """Stop all computation until resumed; requests wait."""
    _show(session, session.client.post(_path("pause", number)))
    session.output.next_step("engine", "resume", *_named(number))


@engine.command("drain")
@of_engine
@pass_session
def drain_engine(session: AdminSession, number: int | None) -> None:
    """Let running requests finish; new ones wait until resumed, or start on other engines."""
    _show(session, session.client.post(_path("drain", number)))
    session.output.next_step("engine", "resume", *_named(number))


@engine.command("resume")
@of_engine
@pass_session
def resume_engine(session: AdminSession, number: int | None) -> None:
    """End a pause or a drain."""
    _show(session, session.client.post(_path("resume", number)))
    session.output.next_step("queue", about="the requests that waited start now")


def _show(session: AdminSession, answer: Item) -> None:
    """The engines as one, and a line for each of several."""
    session.output.item(answer, without=["engines"])
    if len(answer["engines"]) > 1:
        session.output.table(answer["engines"], COLUMNS)


def _path(command: str, number: int | None) -> str:
    return f"{PATH}/{command}" + ("" if number is None else f"?engine={number}")


def _named(number: int | None) -> list[str]:
    return [] if number is None else [str(number)]
