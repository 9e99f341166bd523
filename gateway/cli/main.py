"""`lmaas`: the command line."""

import importlib
import sys
from typing import Any, Final

import click

from gateway.errors import LmaasError

# Imported on use: `lmaas admin` does not load the dependencies of `lmaas serve`.
COMMANDS: Final = {
    "serve": "gateway.cli.serve",
    "engine": "gateway.cli.engine",
    "models": "gateway.cli.models",
    "migrate": "gateway.cli.migrate",
    "admin": "gateway.cli.admin.commands",
    "example": "gateway.cli.example",
    "batch": "gateway.cli.batch.command",
    "demo": "gateway.cli.demo",
    "evaluate": "gateway.cli.evaluate",
    "replay": "gateway.cli.replay.command",
    "calibrate": "gateway.cli.calibrate",
    "doctor": "gateway.cli.doctor",
    "configuration": "gateway.cli.configuration",
    "errors": "gateway.cli.errors",
}


class Commands(click.Group):
    """The commands, each a function named like its command.

    An LmaasError is printed as one line and ends with exit status 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, in the order of `COMMANDS`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None if it does not exist."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command), f"{COMMANDS[cmd_name]} defines {cmd_name}"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; report an LmaasError on standard error."""
        try:
            return super().invoke(ctx)
        except LmaasError as error:
            click.echo(f"lmaas: {error.message}", err=True)
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lmaas", prog_name="lmaas")
def main() -> None:
    """A gateway for language models that predicts answer lengths and schedules by them.

    Settings are environment variables: DATABASE_URL and LMAAS_*. `lmaas configuration` lists them.
    """
