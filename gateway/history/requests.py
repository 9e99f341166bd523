"""Finds ended requests by id, and counts the requests that overtook them."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, false, func, not_, select

from gateway.database.errors import Sessions, transaction
from gateway.errors import NotFound, shortened
from gateway.quantiles import MEDIAN
from models import RequestRecord

TIME_ORDERED_VERSION: Final = 7  # UUID version that contains its creation time
MAX_ID_DELAY: Final = timedelta(minutes=1)  # from arrival to the id, made after the prediction
ID_MARGIN: Final = timedelta(seconds=1)
FAR_MS: Final = 253_370_764_800_000  # the year 9999: no id of ours, and no later time is read
MAX_OVERTAKING_ROWS: Final = 50_000  # rows read per request


class OvertakingCounts(Struct, frozen=True):
    """Requests that arrived later and started earlier, each counted under its first reason.

    `urgent`: a more urgent service tier. `other_tenant`: another tenant's turn. `shorter`: the same
    tenant, with fewer tokens in prompt and predicted answer. `other`: none of these.
    """

    urgent: int = 0
    other_tenant: int = 0
    shorter: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return self.urgent + self.other_tenant + self.shorter + self.other


class RequestHistory:
    """Reads single requests from history."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def find(self, request_id: UUID) -> RequestRecord:
        """The record of a request. NotFound, also until a request that just ended is inserted."""
        record = None
        if request_id.version == TIME_ORDERED_VERSION:
            async with transaction(self._sessions) as session:
                record = await session.scalar(_by_id(request_id))
        if record is None:
            raise no_request(request_id)
        return record

    async def count_overtaking(
        self, record: RequestRecord, more_urgent: Collection[str]
    ) -> OvertakingCounts:
        """Count the requests of the same gateway that overtook it, by reason.

        `more_urgent` are the tiers above its own. Reads the first `MAX_OVERTAKING_ROWS` requests
        that arrived while it waited.
        """
        async with transaction(self._sessions) as session:
            counts = (await session.execute(_count_overtaking(record, more_urgent))).one()
        return OvertakingCounts(*counts)


def made_ms(request_id: UUID) -> int:
    """Creation time of a version 7 UUID, in milliseconds of the epoch."""
    return request_id.int >> 80


def made_at(request_id: UUID) -> datetime:
    """Creation time of a version 7 UUID. ValueError after the year 9999."""
    return datetime.fromtimestamp(made_ms(request_id) / 1000, UTC)


def no_request(request_id: UUID | str) -> NotFound:
    """The error for an unknown id."""
    return NotFound(f"there is no request {shortened(str(request_id))}", param="request_id")


def _by_id(request_id: UUID) -> Select[RequestRecord]:
    """Select by id within a minute of arrival, the first column of the primary key."""
    return select(RequestRecord).where(arrived_with(request_id), RequestRecord.id == request_id)


def known_id(name: str) -> UUID:
    """A request's id from the id itself or its answer's `id`, such as `chatcmpl-…`. NotFound."""
    try:
        return UUID(name.rpartition("-")[2] if name.startswith(("chatcmpl-", "cmpl-")) else name)
    except ValueError as error:
        raise no_request(name) from error


def arrived_with(request_id: UUID) -> ColumnElement[bool]:
    """The rows that arrived when the request of this id did; none for an id that is not ours."""
    if request_id.version != TIME_ORDERED_VERSION or made_ms(request_id) >= FAR_MS:
        return false()
    made = made_at(request_id)
    return RequestRecord.arrived_at.between(made - MAX_ID_DELAY, made + ID_MARGIN)


def _count_overtaking(
    record: RequestRecord, more_urgent: Collection[str]
) -> Select[int, int, int, int]:
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
            *_other_batches(record),
        )
        .order_by(RequestRecord.arrived_at)
        .limit(MAX_OVERTAKING_ROWS)
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


def _other_batches(record: RequestRecord) -> list[ColumnElement[bool]]:
    """Conditions for other batches of its gateway; none if it was never in a batch."""
    if record.batch_id is None:
        return []
    other_batch = RequestRecord.batch_id != record.batch_id
    if record.gateway_id is None:
        return [other_batch]
    return [other_batch, RequestRecord.gateway_id == record.gateway_id]
