"""Signing in with a key, and out."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from litestar import Controller, Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from gateway.api.errors import status_of
from gateway.dashboard.access.attempts import SignInAttempts
from gateway.dashboard.access.guard import cookie_name, page_of
from gateway.dashboard.access.sessions import MAX_AGE_S, Session, Sessions
from gateway.dashboard.access.viewer import Viewers
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import bare_page
from gateway.errors import Forbidden, InvalidRequest, LmaasError

MAX_FORM_BYTES: Final = 16 << 10
MAX_KEY: Final = 1_000  # characters
MAX_BACK: Final = 2_000
INSIDE: Final = re.compile(r"/page/[!-\[\]-~]*")  # visible ASCII, but no backslash

Back = Annotated[str | None, QueryParameter(description="the page to go to", max_length=MAX_BACK)]


class SignInController(Controller):
    """The form, and what it sends; no session is needed."""

    path = "/page/sign-in"

    @get("/")
    async def show_form(self, back: Back = None) -> Response[str]:
        """The form."""
        return bare_page("sign_in.html", back=inside(back), error=None)

    @post("/", status_code=303, request_max_body_size=MAX_FORM_BYTES)
    async def sign_in(
        self,
        request: Request[Any, Any, Any],
        sessions: NamedDependency[Sessions],
        viewers: NamedDependency[Viewers],
        attempts: NamedDependency[SignInAttempts],
    ) -> Response[Any]:
        """Start a session with the key of the form, and go to the page; else the form again."""
        check_same_origin(request)
        form = await request.form()
        back = inside(str(form.get("back", "")))
        try:
            secret = await admitted(form, request, attempts, viewers.viewer)
        except LmaasError as error:
            return bare_page(
                "sign_in.html", status=status_of(error), back=back, error=error.message
            )
        token, _ = sessions.start(secret)
        cookie = Cookie(
            cookie_name(request),
            value=token,
            path="/",
            max_age=int(MAX_AGE_S),
            httponly=True,
            samesite="lax",  # a link in a runbook works; changes need the session's token
            secure=request.url.scheme == "https",  # also where a trusted proxy says so
        )
        headers = {**HEADERS, "location": back}
        return Response(None, status_code=303, headers=headers, cookies=[cookie])


class SignOutController(Controller):
    """Ends the session."""

    path = "/page/sign-out"
    opt = page_of(anyone=True)

    @post("/", status_code=204)
    async def sign_out(
        self,
        request: Request[Any, Any, Any],
        session: NamedDependency[Session],
        sessions: NamedDependency[Sessions],
    ) -> Response[None]:
        """The cookie is worth nothing from now on."""
        sessions.end(session)
        headers = {**HEADERS, "hx-redirect": "/page/sign-in"}
        gone = Cookie(cookie_name(request), value="", max_age=0)
        return Response(None, status_code=204, headers=headers, cookies=[gone])


async def admitted(
    form: Mapping[str, Any],
    request: Request[Any, Any, Any],
    attempts: SignInAttempts,
    check: Callable[[str], Awaitable[object]],
) -> str:
    """The form's key, which `check` refuses with Unauthenticated if it is not valid.

    InvalidRequest if it is none; OverLimit after too many wrong ones.
    """
    secret = str(form.get("key", "")).strip()
    if not 0 < len(secret) <= MAX_KEY:
        raise InvalidRequest(f"a key has 1 to {MAX_KEY} characters", param="key")
    address = request.client.host if request.client else "local socket"
    with attempts.attempt(address):
        await check(secret)
    return secret


def inside(back: str | None) -> str:
    """A path of the page, with its query, which a sign-in leads to; `/` for any other address."""
    return back if back and INSIDE.fullmatch(back) else "/"


def check_same_origin(request: Request[Any, Any, Any]) -> None:
    """Forbidden for a form that another site sent."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    try:
        elsewhere = bool(origin) and urlsplit(origin).netloc != request.headers.get("host")
    except ValueError:
        elsewhere = True
    if site not in {"same-origin", "none"} or elsewhere:
        raise Forbidden("another site sent this form")
