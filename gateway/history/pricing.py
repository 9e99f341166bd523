"""Finds the price of each record: the one that is valid at its arrival when it is inserted."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.history.record import Record
from models import Price


async def price_ids(session: AsyncSession, records: Sequence[Record]) -> list[UUID | None]:
    """The id of each record's price, None without one. The tier's own price goes first."""
    if not records:
        return []
    first = min(record.arrived_at for record in records)
    statement = select(Price).where(
        Price.model.in_({record.model for record in records}),
        or_(Price.valid_until.is_(None), Price.valid_until > first),
    )
    prices = (await session.scalars(statement)).all()
    return [_price_id(prices, record) for record in records]


def _price_id(prices: Sequence[Price], record: Record) -> UUID | None:
    valid = {
        price.service_tier: price.id
        for price in prices
        if price.model == record.model
        and price.valid_from <= record.arrived_at
        and (price.valid_until is None or record.arrived_at < price.valid_until)
    }
    return valid.get(record.service_tier, valid.get(None))
