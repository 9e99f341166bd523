"""Limits in the database: set, listed and removed; every change notifies all gateways."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self
from uuid import UUID

import structlog
from msgspec import Struct, ValidationError, convert
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, now_of, transaction
from gateway.database.notify import LIMITS, React, notify, unchanged
from gateway.errors import InvalidRequest, NotFound
from gateway.history.audit import note
from gateway.limits.limit import BOUNDED, KINDS, UNITS, Effect, Kind, Level, Limit
from gateway.usage.limits.owner import find_owner, owner_names
from gateway.usage.prices import money
from models import StoredLimit

MAX_AMOUNT: Final = 10**18
MAX_DIGITS: Final = 28
NODE: Final = UUID(int=0)  # which no owner has
# One change at a time: two that set the same limit could not see each other.
_LOCK: Final = select(func.pg_advisory_xact_lock(func.hashtext("lmaas.limits")))
COLUMN: Final[dict[Level, str]] = {
    "tenant": "tenant_id",
    "app": "app_id",
    "user": "app_id",
    "key": "api_key_id",
}

log = structlog.get_logger()


class NewLimit(Struct, frozen=True, kw_only=True):
    """A limit to set. `owner` is an id or names, None for the node; `value` in decimal notation.

    A share of KV memory is above 0 and at most 1, numbers of requests and tokens are whole.
    """

    level: Level
    owner: str | None
    kind: Kind
    value: str
    effect: Effect


class NamedLimit(Struct, frozen=True):
    """A limit, its owner's name, None for the node, and its last change."""

    limit: Limit
    owner: str | None
    changed_by: str
    changed_at: datetime

    @classmethod
    def of(cls, row: StoredLimit, names: Mapping[UUID, str]) -> Self:
        """A row, with the names of owners by id."""
        owner = names.get(row.owner or NODE)
        return cls(as_limit(row), owner, row.changed_by, row.changed_at)


class Limits:
    """Sets, lists and removes limits. `changed` is called once a change is committed."""

    def __init__(self, sessions: Sessions, changed: React = unchanged) -> None:
        self._sessions = sessions
        self._changed = changed

    async def set(self, new: NewLimit, *, by: str) -> NamedLimit:
        """The limit; one of the same owner, kind and effect changes its value.

        InvalidRequest, NotFound, Conflict if the owner's name is ambiguous.
        """
        amount = whole_amount(new.kind, new.value)
        quantity, period = BOUNDED[new.kind]
        async with transaction(self._sessions) as session:
            await session.execute(_LOCK)
            owner = await find_owner(session, new.level, new.owner)
            identity = {
                "level": new.level,
                "quantity": quantity,
                "period": period,
                "effect": new.effect,
                **dict.fromkeys(COLUMN.values()),
                **({COLUMN[new.level]: owner} if owner else {}),
            }
            limit = await session.scalar(select(StoredLimit).filter_by(**identity))
            before = None if limit is None else shown(limit)
            if limit is None:
                limit = StoredLimit(**identity)
                session.add(limit)
            elif limit.amount == amount:
                return await _named(session, limit)
            limit.amount, limit.changed_by = amount, by
            limit.changed_at = await now_of(session)
            await session.flush()
            note(session, by, "limit.set", subject_of(limit), before=before, after=shown(limit))
            await notify(session, LIMITS)
            named = await _named(session, limit)
        await self._changed()
        return named

    async def remove(self, limit_id: UUID, *, by: str) -> NamedLimit:
        """The limit, which no longer holds. NotFound."""
        async with transaction(self._sessions) as session:
            limit = await session.get(StoredLimit, limit_id, with_for_update=True)
            if limit is None:
                raise NotFound(f"there is no limit {limit_id}", param="limit_id")
            named = await _named(session, limit)
            await session.delete(limit)
            note(session, by, "limit.removed", subject_of(limit), before=shown(limit))
            await notify(session, LIMITS)
        await self._changed()
        return named

    async def list(
        self,
        *,
        limit: int,
        after: UUID | None = None,
        level: Level | None = None,
        owner: str | None = None,
    ) -> list[NamedLimit]:
        """Limits, oldest first; of one level, and of one owner of that level.

        InvalidRequest for an owner without a level. NotFound, Conflict as of `set`.
        """
        if owner is not None and level is None:
            raise InvalidRequest("owner is only accepted with level", param="owner")
        statement = select(StoredLimit).order_by(StoredLimit.id).limit(limit)
        if after is not None:
            statement = statement.where(StoredLimit.id > after)
        if level is not None:
            statement = statement.where(StoredLimit.level == level)
        async with transaction(self._sessions) as session:
            if owner is not None and level is not None:
                found = await find_owner(session, level, owner)
                statement = statement.where(getattr(StoredLimit, COLUMN[level]) == found)
            limits = [*readable(await session.scalars(statement))]
            names = await owner_names(session, limits)
        return [NamedLimit.of(limit, names) for limit in limits]


async def _named(session: AsyncSession, limit: StoredLimit) -> NamedLimit:
    return NamedLimit.of(limit, await owner_names(session, [limit]))


def whole_amount(kind: Kind, value: str) -> int:
    """The amount of a limit in whole units. InvalidRequest says what is accepted."""
    quantity, _ = BOUNDED[kind]
    unit = UNITS[quantity]
    accepted = "a whole number above 0" if unit == 1 else "a number above 0, with 9 decimals"
    if quantity == "kv_share":
        accepted = "a share of the KV memory, above 0 and at most 1"
    amount = Decimal(0)
    if value.replace(".", "", 1).isdecimal() and value.isascii() and len(value) <= MAX_DIGITS:
        amount = Decimal(value) * unit
    most = unit if quantity == "kv_share" else MAX_AMOUNT
    if not 0 < amount <= most or amount != int(amount):
        raise InvalidRequest(f"value: accepted is {accepted}", param="value")
    return int(amount)


def readable(rows: Iterable[StoredLimit]) -> Iterator[StoredLimit]:
    """The rows that are limits of a kind that this release knows; others are logged."""
    for row in rows:
        try:
            kind_of(as_limit(row))
        except (ValidationError, KeyError) as error:
            log.error("limit_unreadable", limit=str(row.id), reason=str(error))
        else:
            yield row


def as_limit(row: StoredLimit) -> Limit:
    """A row as a limit. ValidationError if it is none."""
    fields = {name: getattr(row, name) for name in Limit.__struct_fields__ if name != "subject"}
    return convert({**fields, "subject": row.owner}, Limit)


def value_of(limit: Limit) -> str:
    """The amount of a limit in decimal notation."""
    return money(Decimal(limit.amount) / UNITS[limit.quantity])


def kind_of(limit: Limit) -> Kind:
    """The kind of a limit."""
    return KINDS[limit.quantity, limit.period]


def subject_of(limit: StoredLimit) -> str:
    """The owner's id, for the audit trail."""
    return str(limit.owner or limit.level)


def shown(row: StoredLimit) -> dict[str, Any]:
    """The limit in the audit trail."""
    limit = as_limit(row)
    return {
        "level": limit.level,
        "kind": kind_of(limit),
        "value": value_of(limit),
        "effect": limit.effect,
    }
