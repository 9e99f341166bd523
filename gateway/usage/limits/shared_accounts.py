"""The accounts of limits that gateways share, and their leases, in the database."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from msgspec import Struct
from sqlalchemy import (
    DateTime,
    FromClause,
    Table,
    Update,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.limits.accounts import MINUTE_S
from gateway.limits.limit import Limit
from gateway.usage.limits.period_use import period_start, used_in_period
from models import LimitAccount, LimitLease, StoredLimit

LEASE_S: Final = 15.0  # then others may take back what a gateway did not use
FULL_FOR: Final = timedelta(hours=1)  # since a bucket was changed, which is full after a minute
NO_PERIOD: Final = date(1970, 1, 1)  # of limits of a minute, whose buckets outlive every period

_ACCOUNT: Final = tuple_(LimitAccount.limit_id, LimitAccount.user_digest, LimitAccount.period_start)
_LEASE: Final = tuple_(LimitLease.limit_id, LimitLease.user_digest, LimitLease.period_start)
_NOW: Final = func.clock_timestamp(type_=DateTime(timezone=True))


class Key(NamedTuple):
    """A shared account."""

    limit_id: UUID
    user_digest: bytes
    period_start: date


class SharedAccount(Struct, frozen=True):
    """An account: the limit's amount, a budget's settled use, and a bucket's level now."""

    amount: int
    used: int
    level: float
    now: datetime


class Lease(Struct, frozen=True):
    """What a gateway may use of a budget, and what it has used."""

    granted: int
    used: int


Leases: TypeAlias = dict[Key, dict[UUID, Lease]]
"""By account and gateway."""


def key_of(limit: Limit, user: str | None, now_s: float) -> Key:
    """The shared account of a limit, and of a user of it, in the present period."""
    start = period_start(limit, now_s) if limit.is_budget else NO_PERIOD
    return Key(limit.id, b"" if user is None else sha256(user.encode()).digest(), start)


async def open_account(
    session: AsyncSession, key: Key, limit: Limit, user: str | None, now_s: float
) -> None:
    """Make an account that there is not; a budget's begins with what usage has of its period.

    Nothing happens if the limit is gone.
    """
    row = select(
        StoredLimit.id,
        literal(key.user_digest),
        literal(key.period_start),
        literal(0),
        StoredLimit.amount,  # a new bucket is full
    ).where(StoredLimit.id == key.limit_id)
    columns = ["limit_id", "user_digest", "period_start", "used", "level"]
    made = insert(LimitAccount).from_select(columns, row).on_conflict_do_nothing()
    new = (await session.execute(made.returning(LimitAccount.limit_id))).first()
    if new is not None and limit.is_budget:
        await settle(session, {key: await used_in_period(session, limit, user, now_s)})


async def delete_old_accounts(session: AsyncSession, now_s: float, most: int) -> int:
    """Delete accounts that no request reads any more; returns how many, at most `most`.

    They are of periods that ended a day ago, or of buckets that have been full for long.
    """
    edge = datetime.fromtimestamp(now_s, UTC).date() - timedelta(days=1)
    period, start = StoredLimit.period, LimitAccount.period_start
    old = or_(
        and_(period == "day", start < edge),
        and_(period == "month", start < edge.replace(day=1)),
        and_(start == NO_PERIOD, LimitAccount.filled_at < _NOW - FULL_FOR),
    )
    found = (
        select(LimitAccount.limit_id, LimitAccount.user_digest, LimitAccount.period_start)
        .join(StoredLimit, StoredLimit.id == LimitAccount.limit_id)
        .where(old)
        .limit(most)
        .with_for_update(of=LimitAccount, skip_locked=True)
    )
    ended = delete(LimitAccount).where(_ACCOUNT.in_(found)).returning(LimitAccount.limit_id)
    return len((await session.execute(ended)).all())


async def lock_accounts(session: AsyncSession, keys: Collection[Key]) -> dict[Key, SharedAccount]:
    """The accounts that there are, each for this transaction alone until its end."""
    statement = (
        select(
            LimitAccount.limit_id,
            LimitAccount.user_digest,
            LimitAccount.period_start,
            StoredLimit.amount,
            LimitAccount.used,
            LimitAccount.level,
            LimitAccount.filled_at,
            _NOW.label("now"),
        )
        .join(StoredLimit, StoredLimit.id == LimitAccount.limit_id)
        .where(_ACCOUNT.in_(keys))
        .order_by(_ACCOUNT)  # so that two gateways do not lock each other out
        .with_for_update(of=LimitAccount)
    )
    found = {}
    for row in (await session.execute(statement)).all():
        elapsed_s = max((row.now - row.filled_at).total_seconds(), 0.0)
        level = min(row.level + elapsed_s * row.amount / MINUTE_S, float(row.amount))
        key = Key(row.limit_id, row.user_digest, row.period_start)
        found[key] = SharedAccount(row.amount, row.used, level, row.now)
    return found


async def end_expired(session: AsyncSession, keys: Collection[Key]) -> dict[Key, int]:
    """End the leases that have expired: what was not used of them is free again.

    Returns what was used of them, by account; it is settled.
    """
    ended = delete(LimitLease).where(_LEASE.in_(keys), LimitLease.expires_at < _NOW)
    rows = await session.execute(
        ended.returning(
            LimitLease.limit_id, LimitLease.user_digest, LimitLease.period_start, LimitLease.used
        )
    )
    used: dict[Key, int] = defaultdict(int)
    for limit_id, digest, start, amount in rows.all():
        used[Key(limit_id, digest, start)] += amount
    await settle(session, used)
    return used


async def read_leases(session: AsyncSession, keys: Collection[Key]) -> Leases:
    """The leases of accounts."""
    found: Leases = defaultdict(dict)
    for row in await session.scalars(select(LimitLease).where(_LEASE.in_(keys))):
        key = Key(row.limit_id, row.user_digest, row.period_start)
        found[key][row.owner] = Lease(row.granted, row.used)
    return found


async def write_leases(session: AsyncSession, owner: UUID, leases: Mapping[Key, Lease]) -> None:
    """Write what a gateway's leases are, valid for `LEASE_S` from now."""
    if not leases:
        return
    written = insert(LimitLease).values(expires_at=_NOW + timedelta(seconds=LEASE_S))
    new = written.excluded
    written = written.on_conflict_do_update(
        index_elements=["limit_id", "user_digest", "period_start", "owner"],
        set_={"granted": new.granted, "used": new.used, "expires_at": new.expires_at},
    )
    await session.execute(
        written,
        [
            {**key._asdict(), "owner": owner, "granted": lease.granted, "used": lease.used}
            for key, lease in leases.items()
        ],
    )


async def end_leases(session: AsyncSession, owner: UUID, used: Mapping[Key, int]) -> None:
    """End leases of a gateway, which used this of them."""
    mine = delete(LimitLease).where(_LEASE.in_(used), LimitLease.owner == owner)
    await session.execute(mine)
    await settle(session, used)


async def settle(session: AsyncSession, used: Mapping[Key, int]) -> None:
    """Add to the use of budgets."""
    table = LimitAccount.__table__
    spent = _at(table).values(used=table.c.used + bindparam("_amount"))
    amounts = [{**_named(key), "_amount": amount} for key, amount in used.items() if amount]
    if amounts:
        await (await session.connection()).execute(spent, amounts)


async def write_levels(session: AsyncSession, levels: Mapping[Key, tuple[float, datetime]]) -> None:
    """Write what buckets have at a time."""
    table = LimitAccount.__table__
    filled = _at(table).values(level=bindparam("_level"), filled_at=bindparam("_at"))
    rows = [{**_named(key), "_level": level, "_at": at} for key, (level, at) in levels.items()]
    if rows:
        await (await session.connection()).execute(filled, rows)


def _at(table: FromClause) -> Update:
    """An update of the account that `_named` names."""
    assert isinstance(table, Table)
    return update(table).where(
        table.c.limit_id == bindparam("_limit"),
        table.c.user_digest == bindparam("_user"),
        table.c.period_start == bindparam("_period"),
    )


def _named(key: Key) -> dict[str, object]:
    return {"_limit": key.limit_id, "_user": key.user_digest, "_period": key.period_start}
