"""Grammars made from JSON schemas and choices."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.protocol import Grammar
from gateway.errors import InvalidRequest

MAX_DEPTH: Final = 64  # of a schema's objects and lists

# A format is an annotation unless the validator knows it (JSON Schema 2020-12, Validation, 7.2.1).
ENFORCED_FORMATS: Final = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    }
)
DATA: Final = frozenset({"const", "default", "enum", "examples"})  # keywords that hold no schemas
NAMED: Final = frozenset(  # keywords that hold schemas by name
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
OPTIONS: Final = "x-guidance"  # the library's own options, which a client cannot set
# Of bounded length: a small model that has begun to write blanks may write nothing else.
WHITESPACE: Final = r"[ \t]{1,8}|\r?\n[ \t]{0,64}"


def json_grammar(
    schema: Mapping[str, Any], *, whitespace: str | None = None, param: str = "response_format"
) -> Grammar:
    """The texts that a JSON schema describes, properties in the schema's order.

    `whitespace` is a regular expression for the space between two parts; empty: none.
    InvalidRequest names `param` if the schema is nested too deep.
    """
    enforced = enforced_schema(schema, whitespace=whitespace, param=param)
    return Grammar("json_schema", msgspec.json.encode(enforced).decode())


def enforced_schema(
    schema: Mapping[str, Any], *, whitespace: str | None = None, param: str
) -> dict[str, Any]:
    """A client's schema with the options of its compiler, as `%json` in a Lark grammar takes it."""
    plain = _annotations_dropped(schema, 0, param)
    pattern = WHITESPACE if whitespace is None else whitespace
    options = {"whitespace_pattern": pattern} if pattern else {"whitespace_flexible": False}
    return {**plain, OPTIONS: options}


def choice_grammar(choices: Sequence[str]) -> Grammar:
    """One of these texts."""
    literals = " | ".join(msgspec.json.encode(choice).decode() for choice in choices)
    return Grammar("lark", f"start: CHOICE\nCHOICE: {literals}\n")


def _annotations_dropped(schema: Mapping[str, Any], depth: int, param: str) -> dict[str, Any]:
    """A schema without formats that have no rule."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "format" and isinstance(value, str) and value not in ENFORCED_FORMATS:
            continue
        if key in NAMED and isinstance(value, dict):
            kept[key] = {name: _inner(each, depth + 2, param) for name, each in value.items()}
        else:
            kept[key] = value if key in DATA else _inner(value, depth + 1, param)
    return kept


def _inner(value: Any, depth: int, param: str) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidRequest(
            f"{param}: the schema is nested too deep; accepted are {MAX_DEPTH} levels", param=param
        )
    if isinstance(value, dict):
        return _annotations_dropped(value, depth, param)
    if isinstance(value, list):
        return [_inner(each, depth + 1, param) for each in value]
    return value
