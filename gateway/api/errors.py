"""Converts errors to HTTP responses in OpenAI's format; no other module does.

`exception_handlers` are installed in the application; a stream that has begun sends `error_body`.
"""

import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.response.base import ASGIResponse
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from gateway.api.http_metrics import ERROR_CODE
from gateway.api.usage.rate_limits import LIMIT, standing_headers
from gateway.api.validation import explain_validation, placed
from gateway.errors import (
    ClientGone,
    Conflict,
    Forbidden,
    GenerationFailed,
    HeadersTooLarge,
    InvalidRequest,
    LimitReached,
    LmaasError,
    NotFound,
    OverLimit,
    RequestCancelled,
    RequestTimeout,
    RequestTooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    shortened,
)

Kind: TypeAlias = int | type[Exception]
Handle: TypeAlias = Callable[[Request[Any, Any, Any], Any], Response[Any]]

log = structlog.get_logger(__name__)

STATUS: Final[dict[type[LmaasError], int]] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    RequestTimeout: 408,
    Conflict: 409,
    RequestCancelled: 409,
    RequestTooLarge: 413,
    UnsupportedMediaType: 415,
    OverLimit: 429,
    HeadersTooLarge: 431,
    ClientGone: 499,
    GenerationFailed: 500,
    Unavailable: 503,
    LmaasError: 500,
}
TYPE: Final[dict[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
CODE: Final[dict[int, str]] = {
    400: "invalid_value",
    401: "invalid_api_key",
    403: "insufficient_permissions",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "service_unavailable",
}
RETRY_AFTER_S: Final[dict[int, int]] = {429: 1, 503: 2}
MAX_RETRY_AFTER_S: Final = 86_400.0
# Client libraries retry a 409, but a conflict persists and a cancellation is intended.
NOT_RETRIED: Final[frozenset[int]] = frozenset({409})


class ErrorDetail(Struct, frozen=True):
    """What went wrong; `param` names the invalid parameter, if any."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """The body of every error response."""

    error: ErrorDetail


def status_of(error: LmaasError) -> int:
    """The HTTP status of an error, by its nearest class in `STATUS`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: LmaasError) -> ErrorBody:
    """An error as the body of a response, or as the last event of a stream."""
    return _body(status_of(error), error.message, error.param, error.code)


def _body(status: int, message: str, param: str | None, code: str | None) -> ErrorBody:
    default = (
        "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    )
    return ErrorBody(ErrorDetail(message, TYPE.get(status, default), param, code))


def error_response(error: LmaasError) -> ASGIResponse:
    """An error as the response of an ASGI application without routes."""
    body = msgspec.json.encode(error_body(error))
    return ASGIResponse(body=body, status_code=status_of(error), media_type="application/json")


def _answer(
    request: Request[Any, Any, Any],
    status: int,
    body: ErrorBody,
    headers: dict[str, str] | None = None,
) -> Response[ErrorBody]:
    request.state[ERROR_CODE] = body.error.code
    headers = dict(headers or {})
    if status in RETRY_AFTER_S:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S[status]))
    if status in NOT_RETRIED:
        headers["X-Should-Retry"] = "false"
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def handle_lmaas(request: Request[Any, Any, Any], error: LmaasError) -> Response[ErrorBody]:
    """Handle an error that the gateway raised on purpose."""
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", error=type(error).__name__, reason=error.message)
    headers = _retry_after(error.retry_after_s)
    if isinstance(error, LimitReached):
        headers |= {LIMIT: error.limit, **standing_headers(error.standings)}
    if not error.should_retry:
        headers["X-Should-Retry"] = "false"
    return _answer(request, status, error_body(error), headers)


def _retry_after(wait_s: float | None) -> dict[str, str]:
    if wait_s is None:
        return {}
    return {"Retry-After": str(math.ceil(min(max(wait_s, 1.0), MAX_RETRY_AFTER_S)))}


def handle_litestar(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    """Handle an error of the framework, such as an unknown route or an unreadable body."""
    status = error.status_code
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return handle_unexpected(request, error)
    message, param = _explain(request, error)
    body = _body(status, message, param, CODE.get(status))
    return _answer(request, status, body, error.headers)


def handle_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Handle a defect: log it with its traceback; the client gets no details."""
    log.error("request_crashed", exc_info=error)
    message = "internal error; the server has logged it"
    return _answer(request, 500, _body(500, message, None, CODE[500]))


def _explain(request: Request[Any, Any, Any], error: HTTPException) -> tuple[str, str | None]:
    """The message, and the path of the invalid parameter."""
    route = f"{request.method} {shortened(request.url.path)}"
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return f"there is no {route}", None
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("allow", "")
            return f"{route} is not allowed; accepted is {allowed}", None
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return "the body is too large", None
    return _explain_input(error)


def _explain_input(error: HTTPException) -> tuple[str, str | None]:
    """The message and the parameter path of an invalid body, query or header."""
    match error.__cause__:
        case msgspec.ValidationError() as cause:
            return explain_validation(cause)
        case SerializationException() as cause:
            return f"the body is not JSON: {shortened(cause.detail)}", None
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first = error.extra[0]  # dependencies run concurrently: their cause is an exception group
        return placed(str(first.get("key", "")), str(first.get("message", error.detail)))
    return shortened(error.detail), None


def handle_unreadable(request: Request[Any, Any, Any], _: Exception) -> Response[ErrorBody]:
    """Handle a body that is not UTF-8 or is nested too deeply."""
    return _answer(request, 400, _body(400, "the body is not readable JSON", None, CODE[400]))


def releasing(handlers: Mapping[Kind, Handle]) -> dict[Kind, Handle]:
    """The same handlers, after which an error keeps nothing of its request alive.

    Its traceback refers to the frames that had the decoded body, and one of them to the error: a
    cycle, which would stay until garbage is searched for, and make that search long.
    """

    def released(handle: Handle) -> Handle:
        def handle_and_release(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
            response = handle(request, error)
            _drop_tracebacks(error)
            return response

        return handle_and_release

    return {kind: released(handle) for kind, handle in handlers.items()}


def _drop_tracebacks(error: BaseException | None) -> None:
    """Drop those of an error and of what led to it."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


exception_handlers: Final[ExceptionHandlersMap] = releasing(
    {
        UnicodeDecodeError: handle_unreadable,
        RecursionError: handle_unreadable,
        LmaasError: handle_lmaas,
        HTTPException: handle_litestar,
        Exception: handle_unexpected,
    }
)
