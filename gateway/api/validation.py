"""Converts decoded JSON to a declared type by one strict rule, and explains what does not fit.

A number is a number and a boolean a boolean: `"0"`, `"true"`, 1 for true, and 5.0 for an integer
are refused; an integer is also a float.
"""

from typing import Any, Final

import msgspec

from gateway.errors import InvalidRequest, shortened

STORABLE: Final = r"^[^\x00]*$"  # Postgres text cannot hold NUL
MISSING: Final = "Object missing required field"
UNKNOWN: Final = "Object contains unknown field"


def convert_strictly(value: object, kind: Any) -> Any:
    """The value as an instance of `kind`. InvalidRequest names the place that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, param = explain_validation(error)
        raise InvalidRequest(message, param=param) from error


def explain_validation(cause: msgspec.ValidationError) -> tuple[str, str | None]:
    """Msgspec's message after its path in OpenAI's notation, such as `messages[0].role`."""
    reason, _, place = str(cause).rpartition(" - at ")
    if not reason:
        reason, place = place, ""
    place = place.strip("`").removeprefix("$").lstrip(".")
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
