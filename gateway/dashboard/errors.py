"""Errors as the page shows them: a page, a line in the page, or the sign-in."""

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from gateway.api.errors import CODE, handle_unexpected, releasing, status_of
from gateway.api.http_metrics import ERROR_CODE
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import HTML, bare_page, render
from gateway.errors import LmaasError, Unauthenticated, shortened

SIGN_IN: Final = "/page/sign-in"


def handle_lmaas(request: Request[Any, Any, Any], error: LmaasError) -> Response[Any]:
    """Show an error that the gateway raised on purpose."""
    if isinstance(error, Unauthenticated):
        return _to_sign_in(request)
    return _shown(request, status_of(error), error.message, error.code)


def handle_litestar(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Show an error of the framework, such as an invalid query."""
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return handle_crash(request, error)
    message = shortened(error.detail)
    if isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        message = shortened(f"{first.get('key', '')}: {first.get('message', error.detail)}")
    return _shown(request, error.status_code, message, CODE.get(error.status_code))


def handle_crash(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Log a defect; the browser gets no details."""
    handle_unexpected(request, error)
    return _shown(request, 500, "internal error; the server has logged it", CODE[500])


def _shown(
    request: Request[Any, Any, Any], status: int, message: str, code: str | None
) -> Response[Any]:
    request.state[ERROR_CODE] = code
    if _is_part(request):
        line = render("error_line.html", {"message": message})
        return Response(line, status_code=status, media_type=HTML, headers=HEADERS)
    return bare_page("error.html", status=status, message=message, code=status)


def _to_sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
    shown = _shown_page(request)
    back = SIGN_IN if shown in {"/", SIGN_IN} else f"{SIGN_IN}?back={quote(shown)}"
    if _is_part(request):
        return Response(None, status_code=401, headers={**HEADERS, "hx-redirect": back})
    return Response(None, status_code=303, headers={**HEADERS, "location": back})


def _shown_page(request: Request[Any, Any, Any]) -> str:
    """Path and query of the page that the browser shows; `/` if that is not known."""
    address = str(request.url)
    if _is_part(request):
        address = request.headers.get("hx-current-url", "")
    try:
        _, _, path, query, _ = urlsplit(address)
    except ValueError:
        return "/"
    return urlunsplit(("", "", path or "/", query, ""))


def _is_part(request: Request[Any, Any, Any]) -> bool:
    """Whether a script asks for a part of a page, and no person for a page."""
    return (
        "hx-request" in request.headers
        or "text/event-stream" in request.headers.get("accept", "")
        or request.method not in {"GET", "HEAD"}
    )


handlers: Final[ExceptionHandlersMap] = releasing(
    {LmaasError: handle_lmaas, HTTPException: handle_litestar, Exception: handle_crash}
)
