"""Requests that ended, found by their id, and which others overtook them."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, func, not_, select

from gateway.database.errors import Sessions, transaction
from gateway.errors import NotFound
from gateway.quantiles import MEDIAN
from models import RequestRecord

TIMED: Final = 7  # the version of ids that tell when they were made
BEFORE: Final = timedelta(minutes=1)  # a request gets its id when its length is predicted
AFTER: Final = timedelta(seconds=1)
MOST: Final = 50_000  # rows looked at


class Passes(Struct, frozen=True):
    """Requests that came later and started before; each counts once, under the first that holds.

    `urgent`: of a more urgent service tier. `other_tenant`: it was another tenant's turn.
    `shorter`: of the same tenant, with fewer tokens in prompt and predicted answer.
    """

    urgent: int = 0
    other_tenant: int = 0
    shorter: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.urgent + self.other_tenant + self.shorter + self.other


class RequestHistory:
    """Reads single requests of history."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def find(self, request_id: UUID) -> RequestRecord:
        """What is remembered of a request; NotFound. The newest are there after some moments."""
        record = None
        if request_id.version == TIMED:
            async with transaction(self._sessions) as session:
                record = await session.scalar(_by_id(request_id))
        if record is None:
            raise no_request(request_id)
        return record

    async def passes(self, record: RequestRecord, more_urgent: Collection[str]) -> Passes:
        """Who overtook it in the same gateway; `more_urgent` are the tiers above its own.

        Looked at are the first 50,000 that came while it waited.
        """
        async with transaction(self._sessions) as session:
            counts = (await session.execute(_passes(record, more_urgent))).one()
        return Passes(*counts)


def made_at(request_id: UUID) -> datetime:
    """When an id of version 7 was made."""
    return datetime.fromtimestamp((request_id.int >> 80) / 1000, UTC)


def no_request(request_id: UUID | str) -> NotFound:
    """The error for an id of nothing."""
    return NotFound(f"there is no request {request_id}", param="request_id")


def _by_id(request_id: UUID) -> Select[RequestRecord]:
    """Reads a minute's stretch of the primary key, which the time of arrival leads."""
    made = made_at(request_id)
    return select(RequestRecord).where(
        RequestRecord.arrived_at.between(made - BEFORE, made + AFTER),
        RequestRecord.id == request_id,
    )


def _passes(record: RequestRecord, more_urgent: Collection[str]) -> Select[int, int, int, int]:
    waited_s = record.response_s if record.queued_s is None else record.queued_s
    started = record.arrived_at + timedelta(seconds=waited_s)
    seconds = func.make_interval(0, 0, 0, 0, 0, 0, RequestRecord.queued_s)
    tokens = RequestRecord.prompt_tokens + RequestRecord.quantiles[MEDIAN + 1]  # counted from 1
    came = (
        select(
            RequestRecord.tenant_id,
            RequestRecord.service_tier,
            tokens.label("tokens"),
            (RequestRecord.arrived_at + seconds < started).label("passed"),
        )
        .where(
            RequestRecord.model == record.model,
            RequestRecord.arrived_at > record.arrived_at,
            RequestRecord.arrived_at < started,
            *_elsewhere_in_the_same_gateway(record),
        )
        .order_by(RequestRecord.arrived_at)
        .limit(MOST)
        .subquery()
    )
    urgent = func.coalesce(came.c.service_tier.in_(more_urgent), False)
    others = came.c.tenant_id != record.tenant_id
    shorter = came.c.tokens < record.prompt_tokens + record.quantiles[MEDIAN]

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return func.count().filter(came.c.passed, *conditions)

    return select(
        count(urgent),
        count(not_(urgent), others),
        count(not_(urgent), not_(others), shorter),
        count(not_(urgent), not_(others), not_(shorter)),
    )


def _elsewhere_in_the_same_gateway(record: RequestRecord) -> list[ColumnElement[bool]]:
    """In other batches of its gateway; all where it was never in a batch."""
    if record.batch_id is None:
        return []
    other_batch = RequestRecord.batch_id != record.batch_id
    if record.gateway_id is None:
        return [other_batch]
    return [other_batch, RequestRecord.gateway_id == record.gateway_id]
