"""Prices of a model's tokens, and when they are valid."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import DateTime, Select, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.database.notify import LIMITS, React, notify, unchanged
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.history.audit import note
from models import Price

AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,10})?")
# One change at a time: two that overlap could not see each other.
_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtext('lmaas.prices'))")


class NewPrice(Struct, frozen=True, kw_only=True):
    """A price per million tokens. `valid_from` None: from now on; `valid_until` None: without end.

    `service_tier` None: of every tier without a price of its own.
    """

    model: str
    service_tier: str | None = None
    input: Decimal
    cached_input: Decimal
    output: Decimal
    valid_from: datetime | None = None
    valid_until: datetime | None = None


class Prices:
    """Sets, ends and lists prices.

    A record gets its price when it is inserted, so prices begin and end in the present or later.
    `changed` is called once a change is committed; gateways are notified of it as of limits.
    """

    def __init__(self, sessions: Sessions, changed: React = unchanged) -> None:
        self._sessions = sessions
        self._changed = changed

    async def set(self, new: NewPrice, *, by: str) -> Price:
        """The new price; the one it follows ends where it begins.

        InvalidRequest if it begins in the past or ends before it begins; Conflict if a later price
        of the same model and tier begins within it.
        """
        async with transaction(self._sessions) as session:
            now = await _locked_now(session)
            begins = new.valid_from or now
            if begins < now:
                raise InvalidRequest(
                    f"valid_from is past; the earliest is now, {now.isoformat()}",
                    param="valid_from",
                )
            if new.valid_until is not None and new.valid_until <= begins:
                raise InvalidRequest("valid_until is not after valid_from", param="valid_until")
            for earlier in await session.scalars(_overlapping(new, begins)):
                if earlier.valid_from >= begins:
                    raise Conflict(
                        f"a price begins at {earlier.valid_from.isoformat()}; delete it first, or "
                        "set valid_until",
                    )
                earlier.valid_until = begins
            price = Price(
                model=new.model,
                service_tier=new.service_tier,
                input=new.input,
                cached_input=new.cached_input,
                output=new.output,
                valid_from=begins,
                valid_until=new.valid_until,
                created_by=by,
            )
            session.add(price)
            await session.flush()
            note(session, by, "price.set", price.model, after=_shown(price))
            await notify(session, LIMITS)
        await self._changed()
        return price

    async def end(self, price_id: UUID, *, by: str) -> Price:
        """The price, valid until now; one that has not begun is deleted. NotFound.

        Ending a price that has ended changes nothing.
        """
        async with transaction(self._sessions) as session:
            now = await _locked_now(session)
            price = await session.get(Price, price_id)
            if price is None:
                raise NotFound(f"there is no price {price_id}", param="price_id")
            if price.valid_from >= now:
                await session.delete(price)
            elif price.valid_until is None or price.valid_until > now:
                price.valid_until = now
            else:
                return price
            note(session, by, "price.ended", price.model, before=_shown(price))
            await notify(session, LIMITS)
        await self._changed()
        return price

    async def list(
        self, *, limit: int, after: UUID | None = None, model: str | None = None
    ) -> list[Price]:
        """Prices in the order in which they were set; with `model` those of that model."""
        statement = select(Price).order_by(Price.id).limit(limit)
        if after is not None:
            statement = statement.where(Price.id > after)
        if model is not None:
            statement = statement.where(Price.model == model)
        async with transaction(self._sessions) as session:
            return [*await session.scalars(statement)]


def amount(given: str, param: str) -> Decimal:
    """An amount of money from its decimal notation, exactly. InvalidRequest."""
    if not AMOUNT.fullmatch(given):
        raise InvalidRequest(
            f"{param}: accepted are amounts such as '0.15', with up to 10 decimals", param=param
        )
    return Decimal(given)


def money(value: Decimal) -> str:
    """An amount in decimal notation, exactly, without zeros at the end."""
    shown = format(value, "f")
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


async def _locked_now(session: AsyncSession) -> datetime:
    """The database's time, after every other change of prices."""
    await session.execute(_LOCK)
    return (
        await session.execute(select(func.clock_timestamp(type_=DateTime(timezone=True))))
    ).scalar_one()


def _overlapping(new: NewPrice, begins: datetime) -> Select[Price]:
    same_tier = (
        Price.service_tier.is_(None)
        if new.service_tier is None
        else Price.service_tier == new.service_tier
    )
    statement = select(Price).where(
        Price.model == new.model,
        same_tier,
        or_(Price.valid_until.is_(None), Price.valid_until > begins),
    )
    if new.valid_until is not None:
        statement = statement.where(Price.valid_from < new.valid_until)
    return statement


def _shown(price: Price) -> dict[str, str | None]:
    return {
        "service_tier": price.service_tier,
        "input": money(price.input),
        "cached_input": money(price.cached_input),
        "output": money(price.output),
        "valid_from": price.valid_from.isoformat(),
        "valid_until": price.valid_until.isoformat() if price.valid_until else None,
    }
