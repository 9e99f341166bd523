"""What was used of a budget in its period, from the sums of usage."""

from datetime import UTC, date, datetime
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.limits.limit import BILLIONTHS, Limit
from gateway.usage.report import Kept, cost_of
from models import KeyUsageDay, Price, UsageDay


def period_start(limit: Limit, now_s: float) -> date:
    """The first day of UTC of the period in which `now_s` lies, in seconds of the epoch."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    return today if limit.period == "day" else today.replace(day=1)


async def used_in_period(
    session: AsyncSession, limit: Limit, now_s: float
) -> dict[str | None, int]:
    """What was used since the period began, in whole units: by user for a limit of level `user`,
    else under None. Who used nothing is left out.
    """
    by_user = limit.level == "user"
    kept: Kept = UsageDay if by_user else KeyUsageDay
    user = UsageDay.end_user if by_user else func.nullif("", "")
    statement = (
        select(user, func.sum(_amount(limit, kept)))
        .select_from(kept)
        .outerjoin(Price, Price.id == kept.price_id)
        .where(kept.day >= period_start(limit, now_s), *_owned(limit, kept))
        .group_by(user)
    )
    rows = (await session.execute(statement)).all()
    return {name: ceil(amount or 0) for name, amount in rows if name or not by_user}


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
        case "app" | "user":
            return [kept.app_id == limit.subject]
