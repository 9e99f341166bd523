"""`/admin/queue` and `/admin/requests`: what waits and runs, and why."""

from typing import Annotated, Self
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.generation.insight.explanation import Explained
from gateway.generation.insight.queue_view import Queue, Queued, Totals
from gateway.generation.service import GenerationService
from gateway.history.requests import RequestHistory, no_request
from gateway.tenancy.scopes import Scope

QueueLimit = Annotated[int, QueryParameter(ge=1, le=1_000, description="most requests wanted")]
Offset = Annotated[int, QueryParameter(ge=0, description="how many to leave out at first")]
OfTenant = Annotated[UUID | None, QueryParameter(description="only this tenant's; unset: all")]


class QueueAnswer(Struct, frozen=True, kw_only=True):
    """The queue: running requests by age, then waiting ones, the next to start first.

    `totals` are of the whole queue, whatever was asked for.
    """

    object: str = "list"
    totals: Totals
    data: list[Queued]
    has_more: bool

    @classmethod
    def of(cls, queue: Queue) -> Self:
        """The queue as clients see it."""
        return cls(totals=queue.totals, data=queue.requests, has_more=queue.more)


class QueueController(Controller):
    """Shows what this gateway has to do."""

    path = "/queue"
    opt = area(Scope.ENGINE)

    @get(summary="Show the live queue")
    async def show_queue(
        self,
        generations: NamedDependency[GenerationService],
        tenant: OfTenant = None,
        limit: QueueLimit = 100,
        offset: Offset = 0,
    ) -> QueueAnswer:
        """What runs and waits here, each with its prediction, batch, turn and expected times."""
        queue = generations.scheduler.read_queue(limit=limit, offset=offset, tenant=tenant)
        return QueueAnswer.of(queue)


class RequestsController(Controller):
    """Explains and cancels single requests."""

    path = "/requests"
    opt = area(Scope.ENGINE)

    @get("/{request_id:str}", summary="Explain a request")
    async def explain_request(
        self,
        request_id: FromPath[str],
        generations: NamedDependency[GenerationService],
        requests: NamedDependency[RequestHistory],
    ) -> Explained:
        """Why it waited as long as it did; `request_id` may be an answer's `id`.

        Of this gateway while it lives, of any gateway once it has ended; 404 where nothing is
        known, and for some moments after its end.
        """
        return await generations.scheduler.explain(known_id(request_id), requests)

    @post("/{request_id:str}/cancel", status_code=200, summary="Cancel a request")
    async def cancel(
        self,
        request_id: FromPath[str],
        generations: NamedDependency[GenerationService],
        actor: Actor,
    ) -> Explained:
        """The request, ended with all its choices; its client gets 409 `request_cancelled`.

        404 where it neither waits nor runs in this gateway.
        """
        return generations.scheduler.cancel_request(known_id(request_id), by=actor)


def known_id(name: str) -> UUID:
    """A request's id, as it is or as its answer's `id`, such as `chatcmpl-…`. NotFound."""
    try:
        return UUID(name.rpartition("-")[2] if name.startswith(("chatcmpl-", "cmpl-")) else name)
    except ValueError as error:
        raise no_request(name) from error
