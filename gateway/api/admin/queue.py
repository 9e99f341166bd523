"""`/admin/queue` and `/admin/requests`: waiting and running requests, and why they waited."""

from typing import Annotated, Self
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.generation.insight.explanation import Explanation
from gateway.generation.insight.queue_view import QueueEntry, QueuePage, QueueTotals
from gateway.generation.operation.commands import OperatorCommands
from gateway.generation.service import GenerationService
from gateway.history.requests import RequestHistory, known_id
from gateway.tenancy.scopes import Scope

QueueLimit = Annotated[
    int, QueryParameter(ge=1, le=1_000, description="maximum number of requests")
]
Offset = Annotated[
    int, QueryParameter(ge=0, le=1_000_000, description="number of requests to skip")
]
OfTenant = Annotated[
    UUID | None, QueryParameter(description="only this tenant's requests; unset: all")
]


class QueueAnswer(Struct, frozen=True, kw_only=True):
    """The queue: running requests, oldest first, then waiting ones in start order.

    `totals` are of the whole queue, whatever page is requested.
    """

    object: str = "list"
    totals: QueueTotals
    data: list[QueueEntry]
    has_more: bool

    @classmethod
    def of(cls, queue: QueuePage) -> Self:
        """The queue as clients see it."""
        return cls(totals=queue.totals, data=queue.requests, has_more=queue.more)


class QueueController(Controller):
    """Shows the queue of this gateway."""

    path = "/queue"
    opt = area(Scope.ENGINE)

    @get(summary="Show the live queue")
    async def show_queue(
        self,
        service: NamedDependency[GenerationService],
        tenant: OfTenant = None,
        limit: QueueLimit = 100,
        offset: Offset = 0,
    ) -> QueueAnswer:
        """Running and waiting requests with prediction, batch, position and expected times."""
        queue = service.scheduler.read_queue(limit=limit, offset=offset, tenant=tenant)
        return QueueAnswer.of(queue)


class RequestsController(Controller):
    """Explains and cancels single requests."""

    path = "/requests"
    opt = area(Scope.ENGINE)

    @get("/{request_id:str}", summary="Explain a request")
    async def explain_request(
        self,
        request_id: FromPath[str],
        service: NamedDependency[GenerationService],
        requests: NamedDependency[RequestHistory],
    ) -> Explanation:
        """Why the request waited; `request_id` may also be an answer's `id`.

        Finds unfinished requests of this gateway and ended ones of any gateway. 404 for an unknown
        id, also briefly after a request's end.
        """
        return await service.scheduler.explain(known_id(request_id), requests)

    @post("/{request_id:str}/cancel", status_code=200, summary="Cancel a request")
    async def cancel(
        self,
        request_id: FromPath[str],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
    ) -> Explanation:
        """The request, ended with all its choices; its client gets 409 `request_cancelled`.

        404 if it neither waits nor runs in this gateway.
        """
        return commands.cancel_request(known_id(request_id), by=actor)
