"""Finds the price of each record: the one that is valid at its arrival when it is inserted."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.history.record import Record
from models import Price

log = structlog.get_logger()


async def price_ids(session: AsyncSession, records: Sequence[Record]) -> list[UUID | None]:
    """The id of each record's price, None without one."""
    if not records:
        return []
    prices = await prices_since(
        session,
        {record.model for record in records},
        min(record.arrived_at for record in records),
    )
    found = [
        valid_price(prices, record.model, record.service_tier, record.arrived_at)
        for record in records
    ]
    return [price.id if price else None for price in found]


async def prices_since(
    session: AsyncSession, models: Collection[str], at: datetime
) -> Sequence[Price]:
    """The prices of these models that are valid at that time or later, and can be."""
    statement = select(Price).where(
        Price.model.in_(models), or_(Price.valid_until.is_(None), Price.valid_until > at)
    )
    found = (await session.scalars(statement)).all()
    usable = [price for price in found if _is_usable(price)]
    if len(usable) < len(found):
        log.error("prices_unreadable", prices=len(found) - len(usable))
    return usable


def _is_usable(price: Price) -> bool:
    """Whether its amounts are numbers: the database knows NaN, too."""
    return all(each.is_finite() for each in (price.input, price.cached_input, price.output))


def valid_price(
    prices: Sequence[Price], model: str, tier: str | None, at: datetime
) -> Price | None:
    """The price of a model and tier at that time. The tier's own price goes first."""
    valid = {
        price.service_tier: price
        for price in prices
        if price.model == model
        and price.valid_from <= at
        and (price.valid_until is None or at < price.valid_until)
    }
    return valid.get(tier, valid.get(None))
