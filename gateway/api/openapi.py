"""Completes the OpenAPI document: errors, streams, and bodies of requests as they are decoded.

The framework documents a 400 whose body is its own and not ours, and drops bounds inside unions and
the refusal of unknown fields.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.routes import HTTPRoute

from gateway.api.body import ScreenedBody
from gateway.api.errors import ErrorBody

ANSWER_OR_STREAM: Final = "The whole answer or, with `stream`, its events."
EVENT_STREAM: Final = "text/event-stream"
JSON_OR_CSV: Final = "The page in JSON or, if it is asked for, in CSV."
CSV: Final = "text/csv"
OTHER_FORMS: Final = {ANSWER_OR_STREAM: EVENT_STREAM, JSON_OR_CSV: CSV}  # by description
ERROR_BODY: Final = Reference(ref="#/components/schemas/ErrorBody")
# Of any request: it is not HTTP, too slow, its headers are too large, or the gateway has a defect.
OF_ALL: Final = (400, 408, 431, 500)
MEANING: Final[dict[int, str]] = {
    400: "The request, or the parameter that `param` names, is not as documented.",
    401: "The API key is missing, unknown, revoked or expired.",
    403: "The key's scopes do not include this operation.",
    404: "There is no object of this id or name.",
    408: "The request did not arrive in time.",
    409: "The operation conflicts with the present state, or the request was cancelled.",
    413: "The body has too many bytes or JSON values.",
    415: "The body's Content-Type or Content-Encoding is not accepted.",
    429: "A limit or the tenant's queue bound is reached, or too many unknown keys are looked up.",
    431: "The headers are too large or too many.",
    500: "The gateway or the engine failed; the gateway has logged why.",
    503: "The gateway, its engine or its database cannot serve the request now.",
}
HEADERS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "x-request-id": ("names the request in the gateway's log", tuple(MEANING)),
    "www-authenticate": ("`Bearer`", (401,)),
    "retry-after": ("seconds after which a retry can succeed", (429, 503)),
}


class WireBody(ScreenedBody):
    """A body that is documented by a schema of its own."""

    @classmethod
    def wire_schema(cls) -> dict[str, Any]:
        """The schema of what is sent."""
        raise NotImplementedError


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """A handler's `responses`: errors of its own, apart from those that follow from its form."""
    return {
        status: ResponseSpec(ErrorBody, generate_examples=False, description=MEANING[status])
        for status in statuses
    }


def streamed(form: Any, *statuses: int) -> dict[int, ResponseSpec]:
    """A handler's `responses`: a whole answer of this form or a stream, and errors of its own."""
    whole = ResponseSpec(form, generate_examples=False, description=ANSWER_OR_STREAM)
    return {200: whole, **errors(*statuses)}


def json_or_csv(form: Any) -> dict[int, ResponseSpec]:
    """A handler's `responses`: an answer of this form, or the same in CSV."""
    return {200: ResponseSpec(form, generate_examples=False, description=JSON_OR_CSV)}


def complete_document(app: Litestar) -> None:
    """Add the responses and the request body of every operation to the application's document."""
    document = app.openapi_schema
    _complete_bodies(document, app)
    document.components.responses = {_name(status): _error(status) for status in MEANING}
    for path, operation in _operations(document):
        responses = dict(operation.responses or {})
        for status in (*OF_ALL, *_by_form(path, operation)):
            responses[str(status)] = _reference(status)
        for status in MEANING:
            if _is_error_body(responses.get(str(status))):
                responses[str(status)] = _reference(status)
        whole = responses.get("200")
        if isinstance(whole, OpenAPIResponse) and whole.description in OTHER_FORMS:
            text = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
            whole.content = {**(whole.content or {}), OTHER_FORMS[whole.description]: text}
        operation.responses = dict(sorted(responses.items()))


class _JsonSchema(Schema):
    """A schema in JSON."""

    def __init__(self, json: dict[str, Any]) -> None:
        super().__init__(title=json.get("title"), description=json.get("description"))
        self._json = json

    def to_schema(self) -> dict[str, Any]:
        """The schema."""
        return self._json


def _complete_bodies(document: OpenAPI, app: Litestar) -> None:
    """Document bodies by the types that decode them, and as optional where they have a default."""
    kinds = []
    for path, method, handler in _handlers(app):
        if data := handler.parsed_fn_signature.parameters.get("data"):
            kinds.append(data.annotation)
            operation = _operation(document, path, method)
            if operation and isinstance(operation.request_body, RequestBody):
                operation.request_body.required = not data.has_default
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for kind in kinds:  # what is sent differs from what its screening leaves
        if isinstance(kind, type) and issubclass(kind, WireBody):
            schemas[kind.__name__] = kind.wire_schema()
    document.components.schemas |= {name: _JsonSchema(json) for name, json in schemas.items()}


def _handlers(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                yield from ((route.path_format, method, handler) for method in handler.http_methods)


def _operation(document: OpenAPI, path: str, method: str) -> Operation | None:
    return getattr((document.paths or {}).get(path), method.lower(), None)


def _operations(document: OpenAPI) -> Iterator[tuple[str, Operation]]:
    for path, item in (document.paths or {}).items():
        for method in ("get", "head", "post", "put", "patch", "delete"):
            if operation := getattr(item, method):
                yield path, operation


def _by_form(path: str, operation: Operation) -> Iterator[int]:
    """The statuses that follow from an operation's key, path and body."""
    if not path.startswith("/health"):
        yield 503  # too many connections, for one
    if operation.security:
        yield from (401, 429)
    if path.startswith(("/admin", "/metrics")):
        yield 403
    if "{" in path:
        yield 404
    if operation.request_body:
        yield from (413, 415)


def _is_error_body(response: OpenAPIResponse | Reference | None) -> bool:
    if not isinstance(response, OpenAPIResponse) or not response.content:
        return False
    return any(media.schema == ERROR_BODY for media in response.content.values())


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")


def _reference(status: int) -> Reference:
    return Reference(ref=f"#/components/responses/{_name(status)}")


def _error(status: int) -> OpenAPIResponse:
    text = Schema(type=OpenAPIType.STRING)
    return OpenAPIResponse(
        description=MEANING[status],
        headers={
            name: OpenAPIHeader(schema=text, description=meaning)
            for name, (meaning, statuses) in HEADERS.items()
            if status in statuses
        },
        content={"application/json": OpenAPIMediaType(schema=ERROR_BODY)},
    )
