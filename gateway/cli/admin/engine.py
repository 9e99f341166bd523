"""`lmaas admin engine …`: shows, pauses, drains and resumes the engine."""

import click

from gateway.cli.admin.session import AdminGroup, AdminSession, pass_session

PATH = "/admin/engine"


@click.group(cls=AdminGroup)
def engine() -> None:
    """The engine: show, pause, drain and resume it."""


@engine.command("show")
@pass_session
def show_engine(session: AdminSession) -> None:
    """Show the engine's model, KV memory and newest step."""
    session.output.item(session.client.get(PATH))


@engine.command("pause")
@pass_session
def pause_engine(session: AdminSession) -> None:
    """Stop all computation until resumed; requests wait."""
    session.output.item(session.client.post(f"{PATH}/pause"))
    session.output.next_step("engine", "resume")


@engine.command("drain")
@pass_session
def drain_engine(session: AdminSession) -> None:
    """Let running requests finish; new ones wait until resumed."""
    session.output.item(session.client.post(f"{PATH}/drain"))
    session.output.next_step("engine", "resume")


@engine.command("resume")
@pass_session
def resume_engine(session: AdminSession) -> None:
    """End a pause or a drain."""
    session.output.item(session.client.post(f"{PATH}/resume"))
    session.output.next_step("queue", about="the requests that waited start now")
