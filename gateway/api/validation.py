"""Converts decoded JSON to a declared type by one strict rule, and explains what does not fit.

A number is a number and a boolean a boolean: `"0"`, `"true"`, 1 for true, and 5.0 for an integer
are refused; an integer is also a float.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import inspect

from gateway.errors import InvalidRequest, shortened

STORABLE: Final = r"^[^\x00]*$"  # Postgres text cannot hold NUL
MISSING: Final = "Object missing required field"
NOT_IN_ENUM: Final = "Invalid enum value"
STEP: Final = re.compile(r"\[[^\]]*\]|[^.\[\]]+")  # into a field, an item or a value
UNKNOWN: Final = "Object contains unknown field"


def convert_strictly(value: object, kind: Any) -> Any:
    """The value as an instance of `kind`. InvalidRequest names the place that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, param = explain_validation(error)
        if str(error).startswith(NOT_IN_ENUM):
            accepted = accepted_values(kind, param or "")
            message = f"{message}; accepted are {', '.join(map(str, accepted))}"
        raise InvalidRequest(message, param=param) from error


def accepted_values(kind: Any, place: str) -> list[object]:
    """The values of the enumeration at a place such as `messages[0].role` in a type."""
    nodes = _alternatives(inspect.type_info(kind))
    for step in STEP.findall(place):
        inner = [each for node in nodes for each in _inside(node, step)]
        nodes = [each for node in inner for each in _alternatives(node)]
    return [value for node in nodes for value in _values(node)]


def _alternatives(node: inspect.Type) -> list[inspect.Type]:
    if isinstance(node, inspect.UnionType):
        return [each for kind in node.types for each in _alternatives(kind)]
    return _alternatives(node.type) if isinstance(node, inspect.Metadata) else [node]


def _inside(node: inspect.Type, step: str) -> list[inspect.Type]:
    match node:
        case inspect.StructType(fields=fields):
            return [field.type for field in fields if field.encode_name == step]
        case inspect.CollectionType(item_type=inner) | inspect.DictType(value_type=inner):
            return [inner]
    return []


def _values(node: inspect.Type) -> list[object]:
    match node:
        case inspect.LiteralType(values=values):
            return list(values)
        case inspect.EnumType(cls=enumeration):
            return [member.value for member in enumeration]
    return []


def explain_validation(cause: msgspec.ValidationError) -> tuple[str, str | None]:
    """Msgspec's message after its path in OpenAI's notation, such as `messages[0].role`."""
    reason, _, place = str(cause).rpartition(" - at ")
    if not reason:
        reason, place = place, ""
    place = place.removeprefix("`key` in ").strip("`").removeprefix("$").lstrip(".")
    if place == "data" or place.startswith(("data.", "data[")):
        place = place.removeprefix("data").lstrip(".")
    if reason == f"{MISSING} `data`":
        return "a body in JSON is needed", None
    if reason.startswith((MISSING, UNKNOWN)):
        field = shortened(reason.partition("`")[2].removesuffix("`"))
        place = f"{place}.{field}" if place else field
        wrong = "is required" if reason.startswith(MISSING) else "is not a known field"
        return f"{place}: {wrong}", place
    if reason.endswith(f"matching regex {STORABLE!r}"):
        reason = "the NUL character is not accepted"
    return placed(place, reason)


def placed(place: str, reason: str) -> tuple[str, str | None]:
    """A message that names the place, and the place as the parameter; None for the whole body."""
    place, reason = shortened(place), shortened(reason[:1].lower() + reason[1:])
    return (f"{place}: {reason}", place) if place else (f"the body: {reason}", None)
