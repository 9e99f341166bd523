"""Lists finished requests, newest first, a page at a time.

Each filter alone reads an index in the order of arrival, so that a page costs the same whether
history has thousands of rows or millions. No index serves a range of lengths or waits in that
order: such a page looks through the newest `MAX_SCANNED` requests that the other filters leave, and
the next one goes on after the last of those.
"""

import base64
import operator
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias
from uuid import UUID

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Select,
    Uuid,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.selectable import FromClause

from gateway.database.errors import Sessions, transaction
from gateway.errors import InvalidRequest
from gateway.history.subjects import Subjects, find_subjects
from models import ApiKey, App, RequestRecord, Tenant
from models.record import RARE_OUTCOME, RARE_TIER, USUAL_OUTCOMES, USUAL_TIER

Outcome: TypeAlias = Literal["stop", "length", "cancelled", "error", "lost"]
Compare: TypeAlias = Callable[[Any, float], ColumnElement[bool]]

EPOCH: Final = datetime.fromtimestamp(0, UTC)
MICROSECOND: Final = timedelta(microseconds=1)
PLACE_FORM: Final = ">q16s"  # microseconds since the epoch, id
MAX_TOKENS: Final = 2**31 - 1  # the largest that a row can have
MAX_WAIT_S: Final = 1e9
MAX_SCANNED: Final = 20_000  # requests: some ten milliseconds
# Never the vectors, which are most of a row.
COLUMNS: Final = (
    RequestRecord.id,
    RequestRecord.first_id,
    RequestRecord.arrived_at,
    RequestRecord.tenant_id,
    RequestRecord.app_id,
    RequestRecord.api_key_id.label("key_id"),
    RequestRecord.end_user.label("user"),
    RequestRecord.model,
    RequestRecord.service_tier,
    RequestRecord.deadline_s,
    RequestRecord.streamed,
    RequestRecord.prompt_tokens,
    RequestRecord.cached_tokens,
    RequestRecord.generation_tokens,
    RequestRecord.max_tokens,
    RequestRecord.form,
    RequestRecord.forced,
    RequestRecord.quantiles,
    RequestRecord.prediction_source,
    RequestRecord.finish_reason,
    RequestRecord.gave_up,
    RequestRecord.policy,
    func.coalesce(RequestRecord.queued_s, RequestRecord.response_s).label("waited_s"),
    RequestRecord.first_token_s,
    RequestRecord.response_s,
    RequestRecord.preemptions,
)
NEWEST_FIRST: Final = (RequestRecord.arrived_at.desc(), RequestRecord.id.desc())


class RequestFilter(Struct, frozen=True, kw_only=True):
    """Requests that arrived from `since` until before `until`, and of what; None: all.

    Tenant, app and key are ids or names; a name stands for every one of that name. `key_id` is an
    id alone, which no name can stand for. The tier of requests that asked for none is `default`.
    The bounds of lengths, in generated tokens, and of waits include both ends.
    """

    since: datetime | None = None
    until: datetime | None = None
    key_id: UUID | None = None
    tenant: str | None = None
    app: str | None = None
    key: str | None = None
    user: str | None = None
    model: str | None = None
    tier: str | None = None
    outcome: Outcome | None = None
    least_tokens: int | None = None
    most_tokens: int | None = None
    least_wait_s: float | None = None
    most_wait_s: float | None = None


class Range(NamedTuple):
    """A bound of a column's values."""

    column: str
    compare: Compare
    bound: float


class Place(Struct, frozen=True):
    """Where a page ended: the arrival and id of its last request."""

    arrived_at: datetime
    id: UUID

    @classmethod
    def decode(cls, text: str) -> Self:
        """The place that `encode` wrote. InvalidRequest for another text."""
        try:
            given = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            micros, id_ = struct.unpack(PLACE_FORM, given)
            return cls(EPOCH + micros * MICROSECOND, UUID(bytes=id_))
        except (ValueError, OverflowError, struct.error) as error:
            raise InvalidRequest(
                "after is not the next_after of an earlier page", param="after"
            ) from error

    def encode(self) -> str:
        """The place as an opaque text for URLs."""
        micros = (self.arrived_at - EPOCH) // MICROSECOND
        packed = struct.pack(PLACE_FORM, micros, self.id.bytes)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


class FinishedRequest(Struct, frozen=True, kw_only=True):
    """A finished request; times are seconds from its arrival.

    Names of what was deleted are null. Each further choice of a request is an item of its own, with
    the request's id as `first_id`. `waited_s` is the time before its start, or before its end if it
    never started. `gave_up` is the bound for which it was shed. `form` is that of the answer: free,
    json or tool. A `forced` length follows from the request's parameters. A null field was not
    recorded.
    """

    id: UUID
    first_id: UUID | None
    arrived_at: datetime
    tenant_id: UUID
    tenant: str | None
    app_id: UUID
    app: str | None
    key_id: UUID
    key: str | None
    user: str | None
    model: str
    service_tier: str | None
    deadline_s: float | None
    streamed: bool
    prompt_tokens: int
    cached_tokens: int | None
    generation_tokens: int
    max_tokens: int
    form: str | None
    forced: bool | None
    quantiles: list[float]
    prediction_source: str
    finish_reason: str
    gave_up: str | None
    policy: str
    waited_s: float
    first_token_s: float | None
    response_s: float
    preemptions: int


class RequestPage(Struct, frozen=True):
    """A page of finished requests, newest first, and where the next one starts, if there is one.

    By length or wait a page may have few items, even none, and still have a next one.
    """

    items: list[FinishedRequest]
    next_after: str | None


class RequestList:
    """Lists finished requests."""

    def __init__(self, sessions: Sessions, *, max_scanned: int = MAX_SCANNED) -> None:
        self._sessions = sessions
        self._max_scanned = max_scanned

    async def read(self, wanted: RequestFilter, *, limit: int, after: str | None) -> RequestPage:
        """At most `limit` requests, those after the `next_after` of the previous page."""
        place = None if after is None else Place.decode(after)
        async with transaction(self._sessions) as session:
            subjects = await find_subjects(session, wanted.tenant, wanted.app, wanted.key)
            if subjects.column is not None and not subjects.ids:
                return RequestPage([], None)
            conditions = [*_conditions(wanted, place), *subjects.conditions]
            scanned, ranges = limit + 1, _ranges(wanted)
            if ranges:
                scanned = max(self._max_scanned // max(len(subjects.ids), 1), limit + 1)
            page = _page(subjects, conditions, scanned)
            matching = _within(page, ranges, limit + 1) if ranges else page
            rows = (await session.execute(_named(matching))).all()
            last = rows[limit - 1] if len(rows) > limit else None
            if last is None and ranges:
                last = (await session.execute(_nth(page, scanned))).one_or_none()
        items = [FinishedRequest(**row._mapping) for row in rows[:limit]]  # noqa: SLF001  public API
        following = None if last is None else Place(last.arrived_at, last.id).encode()
        return RequestPage(items, following)


def _conditions(wanted: RequestFilter, place: Place | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(RequestRecord.arrived_at >= wanted.since)
    if wanted.until is not None:
        found.append(RequestRecord.arrived_at < wanted.until)
    if place is not None:
        found += [
            RequestRecord.arrived_at <= place.arrived_at,  # bounds the scan of every index
            tuple_(RequestRecord.arrived_at, RequestRecord.id) < tuple_(*_values(place)),
        ]
    exact: list[tuple[Any, object]] = [
        (RequestRecord.api_key_id, wanted.key_id),
        (RequestRecord.end_user, wanted.user),
        (RequestRecord.model, wanted.model),
    ]
    found += [column == value for column, value in exact if value is not None]
    # The conditions of the partial indexes are written out, for plans that do not see the value.
    if wanted.outcome is not None:
        found.append(RequestRecord.finish_reason == wanted.outcome)
        if wanted.outcome not in USUAL_OUTCOMES:
            found.append(literal_column(RARE_OUTCOME, Boolean()))
    tier = RequestRecord.service_tier
    if wanted.tier == USUAL_TIER:
        found.append(or_(tier == USUAL_TIER, tier.is_(None)))
    elif wanted.tier is not None:
        found += [tier == wanted.tier, literal_column(RARE_TIER, Boolean())]
    return found


def _values(place: Place) -> tuple[Any, Any]:
    """The place as values of SQL."""
    return (
        bindparam("after_at", place.arrived_at, RequestRecord.arrived_at.type),
        bindparam("after_id", place.id, Uuid()),
    )


def _page(subjects: Subjects, conditions: Sequence[ColumnElement[bool]], rows: int) -> FromClause:
    """The newest rows of the subjects. Of several, each one's newest are read, then the newest."""
    newest = select(*COLUMNS).where(*conditions).order_by(*NEWEST_FIRST).limit(rows)
    match subjects.ids:
        case []:
            return newest.subquery()
        case [only]:
            return newest.where(subjects.column == only).subquery()
    ids = bindparam("subjects", list(subjects.ids), ARRAY(Uuid()))
    of = func.unnest(ids).table_valued("id").render_derived()
    each = newest.where(subjects.column == of.c.id).lateral()
    order = (each.c.arrived_at.desc(), each.c.id.desc())
    return select(each).select_from(of.join(each, true())).order_by(*order).limit(rows).subquery()


def _ranges(wanted: RequestFilter) -> list[Range]:
    """The wanted bounds of lengths and waits."""
    bounds: list[tuple[str, Compare, float | None]] = [
        ("generation_tokens", operator.ge, wanted.least_tokens),
        ("generation_tokens", operator.le, wanted.most_tokens),
        ("waited_s", operator.ge, wanted.least_wait_s),
        ("waited_s", operator.le, wanted.most_wait_s),
    ]
    return [Range(name, compare, bound) for name, compare, bound in bounds if bound is not None]


def _within(page: FromClause, ranges: Sequence[Range], rows: int) -> FromClause:
    """The newest rows of a page that are within these ranges."""
    conditions = [each.compare(page.c[each.column], each.bound) for each in ranges]
    order = (page.c.arrived_at.desc(), page.c.id.desc())
    return select(page).where(*conditions).order_by(*order).limit(rows).subquery()


def _nth(page: FromClause, number: int) -> Select[Any]:
    """The place of the row of this number, the newest is 1; nothing if there are fewer."""
    order = (page.c.arrived_at.desc(), page.c.id.desc())
    return select(page.c.arrived_at, page.c.id).order_by(*order).offset(number - 1).limit(1)


def _named(page: FromClause) -> Select[Any]:
    """The rows with the names of the tenants, apps and keys that still exist."""
    rows = page.c
    return (
        select(page, Tenant.name.label("tenant"), App.name.label("app"), ApiKey.name.label("key"))
        .select_from(page)
        .outerjoin(Tenant, Tenant.id == rows.tenant_id)
        .outerjoin(App, App.id == rows.app_id)
        .outerjoin(ApiKey, ApiKey.id == rows.key_id)
        .order_by(rows.arrived_at.desc(), rows.id.desc())
    )
