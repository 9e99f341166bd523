"""What every command of `lmaas admin` has: client, names, output, and the option `--json`."""

from functools import cached_property
from typing import Any

import click

from gateway.cli.admin.client import AdminClient
from gateway.cli.admin.names import Names
from gateway.cli.admin.output import Output
from gateway.cli.admin.server import Server, find_server


class AdminSession:
    """One run of a command. The gateway is looked for when the command needs it."""

    def __init__(self, url: str | None, key: str | None) -> None:
        self._given = (url, key)
        self._opened: AdminClient | None = None
        self.output = Output()

    @cached_property
    def server(self) -> Server:
        """The gateway. StartupFailure if there is no address or no key."""
        return find_server(*self._given)

    @property
    def client(self) -> AdminClient:
        """The gateway's admin API."""
        if self._opened is None:
            self._opened = AdminClient.of(self.server)
        return self._opened

    @cached_property
    def names(self) -> Names:
        """Ids by name."""
        return Names(self.client)

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened.close()


pass_session = click.make_pass_decorator(AdminSession)


def _use_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        session = context.find_object(AdminSession)
        assert session is not None, "the group makes the session"
        session.output.as_json = True


class AdminCommand(click.Command):
    """A command with the option `--json`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                callback=_use_json,
                help="Print the API's JSON: an object, or an object a line for a list.",
            )
        )


class AdminGroup(click.Group):
    """A group of such commands."""

    command_class = AdminCommand
