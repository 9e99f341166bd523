"""Playground: a chat with the served model, next to what was predicted of each answer."""

from typing import Any, Final

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency

from gateway.api.errors import exception_handlers
from gateway.api.openai.chat import ChatController
from gateway.api.openai.length_predictions import LengthPredictionsController
from gateway.dashboard.access.attempts import SignInAttempts
from gateway.dashboard.access.guard import ANYONE, CHATS, Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewers
from gateway.dashboard.pages.sign_in import MAX_FORM_BYTES, admitted
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import page
from gateway.errors import InvalidRequest, Unauthenticated
from gateway.generation.service import GenerationService

MAX_TOKENS: Final = 512  # of an answer, unless the viewer wants others


class PlaygroundController(Controller):
    """Shows the playground to every viewer that has the key of an app."""

    path = "/page/playground"
    opt = page_of(anyone=True)

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        service: NamedDependency[GenerationService],
    ) -> Response[str]:
        """The page; without an app it asks for a key."""
        info = service.scheduler.engine.info
        context = info.context_tokens if info is not None else MAX_TOKENS
        return page(
            "playground.html",
            viewer,
            session,
            path=self.path,
            model=service.model,
            max_tokens=min(MAX_TOKENS, context),
            most_tokens=context,
        )

    @post("/key", status_code=204, request_max_body_size=MAX_FORM_BYTES)
    async def use_key(
        self,
        request: Request[Any, Any, Any],
        session: NamedDependency[Session],
        viewers: NamedDependency[Viewers],
        attempts: NamedDependency[SignInAttempts],
    ) -> Response[None]:
        """Chat with the key of this app from now on."""
        form = await request.form()
        try:
            session.app_secret = await admitted(form, request, attempts, viewers.caller)
        except Unauthenticated as error:
            raise InvalidRequest("this is not the key of an app", param="key") from error
        return Response(None, status_code=204, headers={**HEADERS, "hx-redirect": self.path})


class PlaygroundChat(ChatController):
    """`POST /v1/chat/completions`, with the session's app."""

    path = "/page/playground/chat"
    opt = {CHATS: True, ANYONE: True}  # noqa: RUF012  as the framework declares it
    exception_handlers = exception_handlers


class PlaygroundPredictions(LengthPredictionsController):
    """`POST /v1/length-predictions`, with the session's app."""

    path = "/page/playground/predict"
    opt = {CHATS: True, ANYONE: True}  # noqa: RUF012  as the framework declares it
    exception_handlers = exception_handlers
