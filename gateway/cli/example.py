"""`lmaas example`: an example request, with an API key, to paste into a terminal."""

import json
import sys
from typing import Final

import click

from gateway.cli.admin.server import find_server
from gateway.served_model import ServedModel, served_model
from gateway.settings import Settings, read_settings
from gateway.tenancy.demo import api_key_file
from gateway.tenancy.secret_file import read_secret

GIVEN_KEY: Final = "$LMAAS_API_KEY"  # a key from the settings is never printed
UNKNOWN_KEY: Final = "$API_KEY"


@click.command()
def example() -> None:
    """Print an example request to the running gateway, with the demo tenant's API key.

    The first start prints it, too.
    """
    settings = read_settings()
    url = settings.public_url or find_server(None, None).url
    click.echo(introduction(settings, served_model(settings), url))


def introduction(settings: Settings, model: ServedModel, url: str) -> str:
    """The demo tenant's API key, where it is kept, and an example request with it."""
    file = api_key_file(settings.data_folder)
    kept = read_secret(file)
    if settings.api_key is not None:
        line, key = "API key of the demo tenant: the value of LMAAS_API_KEY", GIVEN_KEY
    elif kept is not None:
        line, key = f"API key of the demo tenant (kept in {file}): {kept}", kept
    else:
        line = "no API key is kept; `lmaas admin keys create demo/playground example` makes one"
        key = UNKNOWN_KEY
    # On a terminal in lines; each line of a container's log has a prefix.
    request = example_request(model, url, key, one_line=not sys.stdout.isatty())
    return f"{line}\n\n{request}"


def example_request(model: ServedModel, url: str, key: str, *, one_line: bool = False) -> str:
    """A `curl` command that asks the model a question that it answers well."""
    asked = [("system", model.question.instruction), ("user", model.question.user)]
    messages = [
        f'{{"role": "{role}", "content": {json.dumps(text)}}}' for role, text in asked if text
    ]
    parts = [
        f"curl {url}/v1/chat/completions",
        f"-H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json'",
        f"""-d '{{"model": {json.dumps(model.name)}, "temperature": 0, "messages": [""",
    ]
    if one_line:
        return f"{' '.join(parts)}{', '.join(messages)}]}}'\n"
    lines = ",\n".join(f"       {message}" for message in messages)
    return " \\\n  ".join(parts) + f"\n{lines}]}}'\n"
