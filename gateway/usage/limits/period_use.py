"""What was used of a budget in its period, from the sums of usage."""

from datetime import UTC, date, datetime
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.limits.limit import BILLIONTHS, Limit
from gateway.usage.report import Kept, cost_of
from models import App, KeyUsageDay, Price, UsageDay


def period_start(limit: Limit, now_s: float) -> date:
    """The first day of UTC of the period in which `now_s` lies, in seconds of the epoch."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    return today if limit.period == "day" else today.replace(day=1)


async def used_in_period(
    session: AsyncSession, limit: Limit, user: str | None, now_s: float
) -> int:
    """What was used since the period began, in whole units; by the user, for a limit of each."""
    by_user = limit.level == "user"
    kept: Kept = UsageDay if by_user else KeyUsageDay
    statement = (
        select(func.sum(_amount(limit, kept)))
        .select_from(kept)
        .outerjoin(Price, Price.id == kept.price_id)
        .where(kept.day >= period_start(limit, now_s), *_owned(limit, kept))
    )
    if by_user:
        statement = statement.where(UsageDay.end_user == (user or ""))
    return ceil(await session.scalar(statement) or 0)


def _amount(limit: Limit, kept: Kept) -> Any:
    if limit.quantity == "tokens":
        return kept.prompt_tokens + kept.generation_tokens
    assert limit.quantity == "cost", "budgets are of tokens or cost"
    cost = cost_of(kept.prompt_tokens, kept.cached_tokens, kept.generation_tokens)
    return BILLIONTHS * func.coalesce(cost, 0)


def _owned(limit: Limit, kept: Kept) -> list[ColumnElement[bool]]:
    match limit.level:
        case "node":
            return []
        case "tenant":
            return [kept.tenant_id == limit.subject]
        case "key":
            return [kept.api_key_id == limit.subject]
        case "app" | "user":  # the index begins with the tenant
            tenant = select(App.tenant_id).where(App.id == limit.subject).scalar_subquery()
            return [kept.tenant_id == tenant, kept.app_id == limit.subject]
