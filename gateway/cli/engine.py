"""`lmaas engine`: runs `python -m engine` with the same arguments, under its watchdog."""

import os
import sys
from typing import NoReturn

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def engine(arguments: tuple[str, ...]) -> NoReturn:
    """Run the engine alone, under a supervisor of your own, which starts it again when it ends.

    It ends when it hangs, too.
    """
    command = [sys.executable, "-m", "engine.watchdog", *arguments]
    os.execv(sys.executable, command)  # noqa: S606  no shell
