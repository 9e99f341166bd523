"""The options by which requests, and what they used, are chosen."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from gateway.cli.admin.names import Names

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: Final = (
    click.option("--tenant", help="Only this tenant, by name or id."),
    click.option("--app", help="Only this app, as TENANT/APP or by id."),
    click.option("--key", help="Only this key, as TENANT/APP/KEY or by id."),
    click.option("--user", help="Only this end user."),
    click.option("--model", help="Only this model."),
    click.option("--tier", help="Only this service tier; batch: lines of jobs."),
)


def filter_options(command: Command) -> Command:
    """Give a command the options, in this order; it gets them as keyword arguments."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def filter_query(
    names: Names, *, tenant: str | None, app: str | None, key: str | None, **others: Any
) -> dict[str, Any]:
    """The parameters of the API for the options that were given, with names as ids."""
    query = {
        "tenant": tenant and names.tenant(tenant),
        "app": app and names.app(app),
        "key": key and names.key(key),
        **others,
    }
    return {name: value for name, value in query.items() if value is not None}
