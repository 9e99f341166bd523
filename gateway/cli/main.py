"""`lmaas`: the command line."""

import importlib
import sys
from typing import Any, Final

import click

from gateway.errors import LmaasError

# Imported when called: `lmaas admin` need not wait for what `lmaas serve` needs.
COMMANDS: Final = {
    "serve": "gateway.cli.serve",
    "engine": "gateway.cli.engine",
    "migrate": "gateway.cli.migrate",
    "admin": "gateway.cli.admin.commands",
    "demo": "gateway.cli.demo",
    "evaluate": "gateway.cli.evaluate",
    "replay": "gateway.cli.replay",
    "calibrate": "gateway.cli.calibrate",
    "configuration": "gateway.cli.configuration",
    "errors": "gateway.cli.errors",
}


class Commands(click.Group):
    """The commands, each a module's function of the same name.

    Errors of ours end in one line and exit code 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, in the order of `COMMANDS`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None if there is no such."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command), f"{COMMANDS[cmd_name]} defines {cmd_name}"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except LmaasError as error:
            click.echo(f"lmaas: {error.message}", err=True)
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lmaas", prog_name="lmaas")
def main() -> None:
    """A language-model gateway that knows how long every answer will be.

    Settings come from the environment: DATABASE_URL and LMAAS_*.
    """
