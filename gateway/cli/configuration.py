"""`lmaas configuration`: prints `docs/configuration.md`, the reference of all settings."""

from typing import Final

import click
import msgspec

from gateway.settings import Settings

HEAD: Final = """# Configuration

Every setting is an environment variable, read once at start. A wrong value or an unknown `LMAAS_*`
stops the start and names the variable. This page is written by `make docs`.

| variable | meaning | accepted | default |
|---|---|---|---|
"""
TYPES: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
}


@click.command()
def configuration() -> None:
    """Print the reference of all settings."""
    click.echo(page(), nl=False)


def page() -> str:
    """The settings as a Markdown page."""
    (_, components) = msgspec.json.schema_components([Settings])
    properties = components["Settings"]["properties"]
    return HEAD + "".join(_row(name, schema) for name, schema in properties.items())


def _row(name: str, schema: dict[str, object]) -> str:
    default = schema.get("default")
    shown = "" if default is None else f"`{_written(default)}`"
    return f"| `{name}` | {schema['description']} | {_accepted(schema)} | {shown} |\n"


def _accepted(schema: dict[str, object]) -> str:
    """The values that a schema accepts, in words."""
    choices = schema.get("anyOf")
    if isinstance(choices, list):
        return _accepted(next(each for each in choices if each.get("type") != "null"))
    values = schema.get("enum")
    if isinstance(values, list):
        return ", ".join(f"`{value}`" for value in values)
    words = TYPES[str(schema["type"])]
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in schema
    ]
    if "minLength" in schema and schema["minLength"] != 1:
        bounds.append(f"at least {schema['minLength']} characters")
    return " ".join([words, ", ".join(bounds)]).strip()


def _written(default: object) -> object:
    """A default as it is written in the environment."""
    if isinstance(default, bool):
        return str(default).lower()
    return default
