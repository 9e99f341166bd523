"""Adds `x-request-id` and the processing time to every response, counts it and logs it."""

from collections import defaultdict
from functools import cached_property
from typing import Any, cast

from litestar import Litestar
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.routes import HTTPRoute
from litestar.types import (
    HTTPScope,
    LifeSpanReceive,
    LifeSpanScope,
    LifeSpanSend,
    Message,
    Receive,
    Scope,
    Send,
)
from prometheus_client import CollectorRegistry
from structlog.contextvars import bound_contextvars

from gateway.api.connections.access_log import Exchange
from gateway.api.cors import check_preflight
from gateway.api.errors import error_response
from gateway.api.http_metrics import ERROR_CODE, HttpMetrics
from gateway.errors import OriginRefused
from models.base import new_id


def new_request_id() -> str:
    """A request's id, unique and in order of time."""
    return f"req_{new_id().hex}"


class IdentifyingApp(Litestar):
    """Names a request in its answer's headers and in every log event about it.

    Around routing, because an answer that no route is there counts too. Without `metrics` the
    counts are exported nowhere.
    """

    def __init__(self, *args: Any, metrics: HttpMetrics | None = None, **options: Any) -> None:
        self._metrics = metrics or HttpMetrics(CollectorRegistry())
        super().__init__(*args, **options)

    @cached_property
    def _methods(self) -> dict[str, str]:
        """The methods of each route; the framework's OPTIONS names those of one handler only."""
        methods: defaultdict[str, set[str]] = defaultdict(set)
        for route in self.routes:
            if isinstance(route, HTTPRoute):
                methods[route.path_format] |= route.methods
        return {path: ", ".join(sorted(names)) for path, names in methods.items()}

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """Pass the request on; add the headers and count when its answer begins."""
        if scope["type"] == ScopeType.HTTP:
            await self._respond(cast("HTTPScope", scope), cast("Receive", receive), send)
        else:
            await super().__call__(scope, receive, send)

    async def _respond(self, scope: HTTPScope, receive: Receive, send: Send | LifeSpanSend) -> None:
        exchange, request_id = Exchange(scope, receive, send), new_request_id()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.responded(scope, message["status"])
                headers = MutableScopeHeaders.from_message(message)
                headers["x-request-id"] = request_id
                allowed = self._methods.get(scope.get("path_template", ""))
                if scope["method"] == "OPTIONS" and allowed:
                    headers["allow"] = allowed
                headers["openai-processing-ms"] = f"{exchange.took_ms:.0f}"
            await exchange.send(message)

        with bound_contextvars(request_id=request_id):
            try:
                check_preflight(self.cors_config, scope)
            except OriginRefused as error:
                scope.setdefault("state", {})[ERROR_CODE] = error.code
                await error_response(error)(scope, exchange.receive, send_named)
            else:
                await super().__call__(scope, exchange.receive, send_named)
            finally:
                exchange.log()
