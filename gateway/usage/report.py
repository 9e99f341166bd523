"""Usage and cost over UTC days, by any of day, tenant, app, key, user, model and tier."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeAlias
from uuid import UUID

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Select,
    String,
    Subquery,
    Uuid,
    cast,
    func,
    null,
    or_,
    select,
)

from gateway.database.errors import Sessions, transaction
from gateway.usage.prices import money
from models import NO_PRICE, ApiKey, App, KeyUsageDay, Price, Tenant, UsageDay

Kept: TypeAlias = type[UsageDay | KeyUsageDay]

PER_TOKEN: Final = Decimal("0.000001")  # prices are per million tokens


class Group(StrEnum):
    """What usage is summed by."""

    DAY = "day"
    TENANT = "tenant"
    APP = "app"
    KEY = "key"
    USER = "user"
    MODEL = "model"
    TIER = "tier"


# The column that a group is summed by, and its type.
COLUMNS: Final[dict[Group, tuple[str, Any]]] = {
    Group.DAY: ("day", Date()),
    Group.TENANT: ("tenant_id", Uuid()),
    Group.APP: ("app_id", Uuid()),
    Group.KEY: ("api_key_id", Uuid()),
    Group.USER: ("end_user", String()),
    Group.MODEL: ("model", String()),
    Group.TIER: ("service_tier", String()),
}
EMPTY_IS_NONE: Final = {Group.USER, Group.TIER}


class UsageFilter(Struct, frozen=True, kw_only=True):
    """The days from `since` until before `until`, and of what; None: of all.

    Tenant, app and key are ids or names; a name stands for every one of that name. `tenant_id` and
    `key_id` are ids alone, which no name can stand for.
    """

    since: date
    until: date
    tenant_id: UUID | None = None
    key_id: UUID | None = None
    tenant: str | None = None
    app: str | None = None
    key: str | None = None
    user: str | None = None
    model: str | None = None
    tier: str | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """A sum; what it is not grouped by is null. What was deleted keeps its names.

    `requests` counts all that ended, `failed` those of them that ended with an error and used
    nothing. `unpriced` are those for which no price was valid. `cost` is exact, in decimal notation
    and in the currency of the prices.
    """

    day: date | None
    tenant_id: UUID | None
    tenant: str | None
    app_id: UUID | None
    app: str | None
    key_id: UUID | None
    key: str | None
    user: str | None
    model: str | None
    tier: str | None
    requests: int
    failed: int
    unpriced: int
    prompt_tokens: int
    cached_tokens: int
    generation_tokens: int
    cost: str


class UsagePage(Struct, frozen=True):
    """A page of sums, in the order of what they are grouped by."""

    items: list[Usage]
    more: bool


class UsageReport:
    """Sums usage."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def read(
        self, wanted: UsageFilter, groups: Sequence[Group], *, limit: int, offset: int = 0
    ) -> UsagePage:
        """The sums of `groups`; without a group one sum, of zeros if there was no usage."""
        page = _sums(wanted, set(groups)).limit(limit + 1).offset(offset).subquery()
        async with transaction(self._sessions) as session:
            rows = (await session.execute(_named(page))).all()
        return UsagePage([_usage(row) for row in rows[:limit]], len(rows) > limit)


def cost_of(prompt_tokens: Any, cached_tokens: Any, generation_tokens: Any) -> Any:
    """The cost of tokens by the columns of `Price`, exactly: an expression of SQL."""
    return PER_TOKEN * (
        (prompt_tokens - cached_tokens) * Price.input
        + cached_tokens * Price.cached_input
        + generation_tokens * Price.output
    )


def _sums(wanted: UsageFilter, groups: set[Group]) -> Select[Any]:
    """The sums of the groups, from those of each price: few of them are multiplied by a price."""
    priced = _priced(wanted, groups)
    rows = priced.c
    shown = [
        (rows[group.value] if group in groups else cast(null(), kind)).label(group.value)
        for group, (_, kind) in COLUMNS.items()
    ]
    by = [rows[group.value] for group in COLUMNS if group in groups]
    cost = cost_of(rows.prompt_tokens, rows.cached_tokens, rows.generation_tokens)
    statement = (
        select(
            *shown,
            _sum(rows.requests, "requests"),
            _sum(rows.failed, "failed"),
            func.coalesce(
                func.sum(rows.requests - rows.failed).filter(rows.price_id == NO_PRICE), 0
            ).label("unpriced"),
            _sum(rows.prompt_tokens, "prompt_tokens"),
            _sum(rows.cached_tokens, "cached_tokens"),
            _sum(rows.generation_tokens, "generation_tokens"),
            func.coalesce(func.sum(cost), 0).label("cost"),
        )
        .select_from(priced)
        .outerjoin(Price, Price.id == rows.price_id)
    )
    return statement.group_by(*by).order_by(*by)


def _priced(wanted: UsageFilter, groups: set[Group]) -> Subquery:
    """The tokens of the groups at each price, from the sums by user only where users matter."""
    of_users = Group.USER in groups or wanted.user is not None
    kept: Kept = UsageDay if of_users else KeyUsageDay
    by = [_summed_by(group, kept).label(group.value) for group in COLUMNS if group in groups]
    counts = (
        kept.requests,
        kept.failed,
        kept.prompt_tokens,
        kept.cached_tokens,
        kept.generation_tokens,
    )
    statement = select(*by, kept.price_id, *(func.sum(each).label(each.key) for each in counts))
    statement = statement.where(*_conditions(wanted, kept))
    if wanted.user is not None:
        statement = statement.where(UsageDay.end_user == wanted.user)
    return statement.group_by(*by, kept.price_id).subquery()


def _summed_by(group: Group, kept: Kept) -> Any:
    """What a group is summed by."""
    column = getattr(kept, COLUMNS[group][0])
    return func.nullif(column, "") if group in EMPTY_IS_NONE else column


def _sum(column: Any, name: str) -> Any:
    return cast(func.coalesce(func.sum(column), 0), BigInteger).label(name)


def _conditions(wanted: UsageFilter, kept: Kept) -> list[ColumnElement[bool]]:
    """The conditions but that of the user."""
    found = [kept.day >= wanted.since, kept.day < wanted.until]
    for column, kind, given in (
        (kept.tenant_id, Tenant, wanted.tenant),
        (kept.app_id, App, wanted.app),
        (kept.api_key_id, ApiKey, wanted.key),
    ):
        if given is not None:
            named = column.in_(select(kind.id).where(kind.name == given))
            found.append(named if (id_ := _id(given)) is None else or_(column == id_, named))
    exact: list[tuple[Any, object]] = [
        (kept.tenant_id, wanted.tenant_id),
        (kept.api_key_id, wanted.key_id),
        (kept.model, wanted.model),
        (kept.service_tier, wanted.tier),
    ]
    return found + [column == value for column, value in exact if value is not None]


def _named(page: Subquery) -> Select[Any]:
    """The sums with the names of the tenants, apps and keys, also of deleted ones."""
    columns = page.c
    by = [columns[group.value] for group in Group]
    return (
        select(
            page,
            Tenant.name.label("tenant_name"),
            App.name.label("app_name"),
            ApiKey.name.label("key_name"),
        )
        .select_from(page)
        .outerjoin(Tenant, Tenant.id == columns.tenant)
        .outerjoin(App, App.id == columns.app)
        .outerjoin(ApiKey, ApiKey.id == columns.key)
        .order_by(*by)
    )


def _usage(row: Any) -> Usage:
    return Usage(
        day=row.day,
        tenant_id=row.tenant,
        tenant=row.tenant_name,
        app_id=row.app,
        app=row.app_name,
        key_id=row.key,
        key=row.key_name,
        user=row.user,
        model=row.model,
        tier=row.tier,
        requests=row.requests,
        failed=row.failed,
        unpriced=int(row.unpriced),
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        generation_tokens=row.generation_tokens,
        cost=money(Decimal(row.cost)),
    )


def _id(given: str) -> UUID | None:
    try:
        return UUID(given)
    except ValueError:
        return None
