"""Query parameters by the rule of JSON bodies: what is sent is known, sent once, and of its type.

The framework would read `5.0` and `1e2` as integers, `1` and `on` as true and `0.5` as a time, and
drop misspelt names.
"""

import re
from collections import Counter
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

from litestar import Request
from litestar.enums import ParamType
from litestar.handlers import BaseRouteHandler
from litestar.params import ParameterKwarg
from litestar.typing import FieldDefinition

from gateway.errors import InvalidRequest, UnsupportedParameter, shortened

INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
NUMBER: Final = re.compile(INTEGER.pattern + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?", re.ASCII)
FORMS: Final[dict[object, tuple[re.Pattern[str], str]]] = {
    bool: (re.compile("true|false"), "accepted are true and false"),
    int: (INTEGER, "accepted is a whole number, such as 20"),
    float: (NUMBER, "accepted is a number, such as 0.5"),
    datetime: (TIME, "accepted is a time, such as 2026-11-29T12:00:00Z"),
}


async def check_query(request: Request[Any, Any, Any]) -> None:
    """InvalidRequest or UnsupportedParameter names a parameter that is not as the route declares.

    Installed as `before_request`; ranges are checked later, where the value is converted.
    """
    declared = query_parameters(request.route_handler)
    sent = Counter(name for name, _ in request.query_params.items())
    for name, value in request.query_params.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise UnsupportedParameter(
                f"{shortened(name)} is not a query parameter of this route; accepted are: {known}",
                param=shortened(name),
            )
        if sent[name] > 1:
            raise InvalidRequest(f"{name} is sent {sent[name]} times; send it once", param=name)
        if wrong := _mismatch(declared[name], str(value)):
            raise InvalidRequest(f"{name} is {shortened(str(value))!r}; {wrong}", param=name)


@cache
def query_parameters(handler: BaseRouteHandler) -> dict[str, FieldDefinition]:
    """The query parameters that a route and its dependencies declare, by name."""
    provided = handler.resolve_dependencies()
    found: dict[str, FieldDefinition] = {}
    pending = dict(handler.parsed_fn_signature.parameters)
    while pending:
        name, field = pending.popitem()
        kwarg = field.kwarg_definition
        if name in provided:
            pending |= provided[name].parsed_fn_signature.parameters
        elif isinstance(kwarg, ParameterKwarg) and kwarg.param_type is ParamType.QUERY:
            found[kwarg.name or name] = field
    return dict(sorted(found.items()))


def _mismatch(field: FieldDefinition, value: str) -> str:
    """What would be accepted instead of a value that is not of the field's type; else empty."""
    kinds = (
        [each.annotation for each in field.inner_types] if field.is_union else [field.annotation]
    )
    for kind in kinds:
        if accepted := _names(kind):
            return "" if value in accepted else f"accepted are {', '.join(accepted)}"
        if kind in FORMS:
            form, wanted = FORMS[kind]
            return "" if form.fullmatch(value) else wanted
    return ""


def _names(kind: object) -> list[str]:
    """The values of an enumeration, by their names in a query."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(member.value) for member in kind]
    return []
