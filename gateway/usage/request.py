"""Usage and cost of one ended request, for the tenant that sent it."""

from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Select, and_, case, func, or_, select

from gateway.database.errors import Sessions, transaction
from gateway.history.record import LOST
from gateway.history.requests import arrived_with, no_request
from gateway.usage.prices import money
from gateway.usage.report import cost_of
from models import Price, RequestRecord


class RequestCourse(Struct, frozen=True, kw_only=True):
    """How a choice went, as history has it; times are seconds from its arrival."""

    queued_s: float | None
    first_token_s: float | None
    response_s: float
    preempted_s: float | None
    preemptions: int
    batch_id: str | None
    queue_ahead: int | None
    passed_by: int | None
    policy_order: str | None
    overdue: bool | None
    gave_up: str | None


COURSE: Final = tuple(getattr(RequestRecord, name) for name in RequestCourse.__struct_fields__)


class RequestUsage(Struct, frozen=True, kw_only=True):
    """What an ended request used, over its choices. `cost` is null if no price was valid.

    `outcome` is the finish reason of its first choice, `course` how that went. A failed
    request used nothing, nor did one that was lost before its client had been sent a token.
    """

    id: UUID
    model: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int | None
    generation_tokens: int
    cost: str | None
    course: RequestCourse


class RequestUsages:
    """Reads what requests used."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def find(self, request_id: UUID, tenant_id: UUID) -> RequestUsage:
        """A request of this tenant, by one query whether it exists or not.

        NotFound for an unknown id, for one of another tenant, and until the request's end.
        """
        async with transaction(self._sessions) as session:
            rows = (await session.execute(_choices(request_id, tenant_id))).all()
        first = next((row for row in rows if row.id == request_id), None)
        if first is None:
            raise no_request(request_id)
        costs = [row.cost for row in rows]
        return RequestUsage(
            id=first.id,
            model=first.model,
            outcome=first.finish_reason,
            prompt_tokens=first.prompt,
            cached_tokens=first.cached,
            generation_tokens=sum(row.generated for row in rows),
            cost=None if None in costs else money(sum(costs, Decimal(0))),
            course=RequestCourse(
                **{name: getattr(first, name) for name in RequestCourse.__struct_fields__}
            ),
        )


def _choices(request_id: UUID, tenant_id: UUID) -> Select[Any]:
    """The rows of a request's choices: they arrived at the same time."""
    reason, written = RequestRecord.finish_reason, RequestRecord.generation_tokens
    failed = or_(reason == "error", and_(reason == LOST, written == 0))
    reads = and_(RequestRecord.first_id.is_(None), RequestRecord.queued_s.is_not(None), ~failed)
    prompt = case((reads, RequestRecord.prompt_tokens), else_=0)
    cached = case((reads, RequestRecord.cached_tokens))
    generated = case((failed, 0), else_=RequestRecord.generation_tokens)
    return (
        select(
            RequestRecord.id,
            RequestRecord.model,
            RequestRecord.finish_reason,
            prompt.label("prompt"),
            cached.label("cached"),
            generated.label("generated"),
            cost_of(prompt, func.coalesce(cached, 0), generated).label("cost"),
            *COURSE,
        )
        .outerjoin(Price, Price.id == RequestRecord.price_id)
        .where(
            arrived_with(request_id),
            or_(RequestRecord.id == request_id, RequestRecord.first_id == request_id),
            RequestRecord.tenant_id == tenant_id,
        )
    )
