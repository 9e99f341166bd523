"""Tenants: what each is served against its share, its use, cost and limits."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.usage.answer import usage_csv
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.charts.day_bars import DayBars, DayTokens
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import page
from gateway.generation.service import GenerationService
from gateway.tenancy.paging import MAX_LIMIT, Cursor
from gateway.tenancy.scopes import Scope
from gateway.tenancy.tenants import Tenants
from gateway.usage.limits.limits import Limits, NamedLimit, kind_of, value_of
from gateway.usage.report import Group, Usage, UsageFilter, UsageReport
from models import Tenant

WINDOWS: Final = {1: "today", 7: "7 d", 30: "30 d", 90: "90 d"}  # days
MAX_DAYS: Final = 366
CSV_ROWS: Final = 10_000

DayCount = Annotated[int, QueryParameter(ge=1, le=MAX_DAYS, description="days, with today")]
After = Annotated[UUID | None, QueryParameter(description="the last tenant of the page before")]


class TenantRow(Struct, frozen=True):
    """A tenant with its use in the window; `deserved` and `served` are shares of all shown."""

    tenant: Tenant
    used: Usage | None
    deserved: float
    served: float
    running: int
    waiting: int


class LimitRow(Struct, frozen=True):
    """A limit of a tenant."""

    owner: str
    kind: str
    value: str
    effect: str


class TenantsController(Controller):
    """Shows the tenants."""

    path = "/page/tenants"
    opt = page_of(Scope.TENANTS)

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        service: NamedDependency[GenerationService],
        tenants: NamedDependency[Tenants],
        usage: NamedDependency[UsageReport],
        limits: NamedDependency[Limits],
        days: DayCount = 7,
        after: After = None,
    ) -> Response[str]:
        """The page."""
        wanted, since, until = _window(days)
        listed = await tenants.list(Cursor(MAX_LIMIT, after))
        sums = await usage.read(wanted, [Group.TENANT], limit=MAX_LIMIT)
        by_day = await usage.read(wanted, [Group.DAY], limit=MAX_DAYS)
        found = await limits.list(limit=MAX_LIMIT, after=None, level="tenant", owner=None)
        return page(
            "tenants.html",
            viewer,
            session,
            path=self.path,
            days=days,
            windows=WINDOWS,
            rows=_rows(listed.items, sums.items, service),
            more=listed.items[-1].id if listed.more else None,
            bars=DayBars(_each_day(by_day.items, since, until)),
            total=_total(sums.items),
            limits=[_limit_row(each) for each in found],
        )

    @get("/csv")
    async def download(
        self, usage: NamedDependency[UsageReport], days: DayCount = 30
    ) -> Response[str]:
        """Usage and cost by day and tenant as CSV."""
        wanted, _, until = _window(days)
        sums = await usage.read(wanted, [Group.DAY, Group.TENANT], limit=CSV_ROWS)
        named = f'attachment; filename="usage-{until - timedelta(days=1)}.csv"'
        headers = {**HEADERS, "content-disposition": named}
        return Response(usage_csv(sums), media_type="text/csv; charset=utf-8", headers=headers)


def _window(days: int) -> tuple[UsageFilter, date, date]:
    until = datetime.now(UTC).date() + timedelta(days=1)
    since = until - timedelta(days=days)
    return UsageFilter(since=since, until=until), since, until


def _rows(
    tenants: Sequence[Tenant], sums: Sequence[Usage], service: GenerationService
) -> list[TenantRow]:
    used = {each.tenant_id: each for each in sums}
    tokens = {name: each.prompt_tokens + each.generation_tokens for name, each in used.items()}
    table = service.scheduler.table
    running = Counter(state.tenant for state in table.running.values())
    waiting = Counter(state.tenant for state in table.waiting.values())
    weights, served = sum(each.share for each in tenants), sum(tokens.values())
    return [
        TenantRow(
            each,
            used.get(each.id),
            deserved=each.share / weights,
            served=tokens.get(each.id, 0) / served if served else 0.0,
            running=running[each.id.hex],
            waiting=waiting[each.id.hex],
        )
        for each in tenants
    ]


def _each_day(sums: Sequence[Usage], since: date, until: date) -> list[DayTokens]:
    """Every day of the window, also those without use."""
    used = {each.day: each for each in sums}
    days = [since + timedelta(days=number) for number in range((until - since).days)]
    return [
        DayTokens(day, each.prompt_tokens, each.generation_tokens)
        if (each := used.get(day)) is not None
        else DayTokens(day, 0, 0)
        for day in days
    ]


def _total(sums: Sequence[Usage]) -> dict[str, object]:
    return {
        "requests": sum(each.requests for each in sums),
        "prompt": sum(each.prompt_tokens for each in sums),
        "generated": sum(each.generation_tokens for each in sums),
        "cost": sum((Decimal(each.cost) for each in sums), Decimal(0)),
        "unpriced": sum(each.unpriced for each in sums),
    }


def _limit_row(named: NamedLimit) -> LimitRow:
    kind = kind_of(named.limit).replace("_", " ")
    return LimitRow(named.owner or "", kind, value_of(named.limit), named.limit.effect)
