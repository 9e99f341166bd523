"""Limits in the database: who they are for, and that every gateway follows their changes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.history.audit import note
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.limits.hold_ledger import Ask, HoldLedger
from gateway.limits.leased_accounts import open_leased
from gateway.limits.limit import Effect, Kind, Level, Subjects
from gateway.limits.token_cost import TokenCost
from gateway.usage.limits.follower import LimitFollower
from gateway.usage.limits.lessor import Lessor
from gateway.usage.limits.limits import Limits, NewLimit, value_of
from gateway.usage.price_list import PriceList
from gateway.usage.prices import NewPrice, Prices
from models import AuditEntry, StoredLimit
from models.base import new_id
from tests.conftest import PATIENCE_S, Builder

ONLY = 3_600.0  # seconds between polls: changes are followed by their notification alone


def new(
    owner: str | None,
    value: str = "100",
    *,
    level: Level = "tenant",
    kind: Kind = "tokens_per_day",
    effect: Effect = "hard",
) -> NewLimit:
    return NewLimit(level=level, owner=owner, kind=kind, value=value, effect=effect)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def follow(
    sessions: Sessions, postgres_url: str
) -> AsyncIterator[Callable[..., LimitFollower]]:
    """Makes the follower of one more gateway."""
    made: list[LimitFollower] = []

    def make(**given: Any) -> LimitFollower:
        follower = LimitFollower(
            sessions,
            HoldLedger((), open_leased),
            PriceList("model"),
            postgres_url,
            model="model",
            **{"poll_s": ONLY, **given},
        )
        made.append(follower)
        return follower

    yield make
    for follower in made:
        await follower.close()


def amounts(follower: LimitFollower) -> list[int]:
    return [limit.amount for limit in follower.ledger.limits]


async def test_names_stand_for_ids(sessions: Sessions, build: Builder) -> None:
    limits = Limits(sessions)
    tenant = await build.tenant("acme")
    app = await build.app(tenant, name="chat/eu")
    key = (await build.key(app, name="first")).key
    for level, names, owner in (
        ("tenant", "acme", tenant.id),
        ("app", "acme/chat/eu", app.id),
        ("user", "acme/chat/eu", app.id),
        ("key", "acme/chat/eu/first", key.id),
    ):
        named = await limits.set(new(names, level=level), by="ada")
        by_id = await limits.set(new(str(owner), "200", level=level), by="ada")
        assert named.owner == by_id.owner == names
        assert named.limit.subject == owner
        assert named.limit.id == by_id.limit.id
        (found,) = await limits.list(limit=10, level=level, owner=names)
        assert (value_of(found.limit), found.owner) == ("200", names)
    assert (await limits.set(new(None, level="node"), by="ada")).owner is None
    assert len(await limits.list(limit=10)) == 5


async def test_owner_that_is_none_is_refused(sessions: Sessions, build: Builder) -> None:
    limits = Limits(sessions)
    app = await build.app()
    for _ in range(2):
        await build.key(app, name="same")
    for owner in ("nothing", str(new_id()), str(app.id), "\0"):
        with pytest.raises(NotFound):
            await limits.set(new(owner), by="ada")
    tenant = (await build.authenticator.authenticate((await build.key(app)).secret)).tenant
    with pytest.raises(Conflict):
        await limits.set(new(f"{tenant}/{app.name}/same", level="key"), by="ada")
    for level, named in (("node", "x"), ("tenant", None)):
        with pytest.raises(InvalidRequest) as refused:
            await limits.set(new(named, level=level), by="ada")
        assert refused.value.param == "owner"


@pytest.mark.parametrize(
    ("kind", "value", "amount"),
    [
        ("tokens_per_day", "100", 100),
        ("cost_per_month", "0.000000001", 1),
        ("cost_per_day", "12.50", 12_500_000_000),
        ("kv_share", "0.25", 250_000_000),
        *((kind, bad, None) for kind in ("tokens_per_day", "kv_share") for bad in ("0", "-1", "x")),
        *(("requests_per_minute", bad, None) for bad in ("1.5", "1e3", "", ".", "9" * 30, "٣")),
        ("kv_share", "1.1", None),
        ("cost_per_day", "0.0000000001", None),
    ],
)
async def test_value_is_exact_or_refused(
    sessions: Sessions, kind: Kind, value: str, amount: int | None
) -> None:
    setting = Limits(sessions).set(new(None, value, level="node", kind=kind), by="ada")
    if amount is not None:
        assert (await setting).limit.amount == amount
        return
    with pytest.raises(InvalidRequest) as refused:
        await setting
    assert refused.value.param == "value"


async def test_changes_are_in_the_audit_trail(sessions: Sessions, build: Builder) -> None:
    limits, tenant = Limits(sessions), await build.tenant("acme")
    for value in ("100", "200", "200"):
        limit = await limits.set(new("acme", value), by="ada")
    await limits.remove(limit.limit.id, by="bob")
    with pytest.raises(NotFound):
        await limits.remove(limit.limit.id, by="bob")
    shown = {"level": "tenant", "kind": "tokens_per_day", "effect": "hard"}
    async with sessions() as session:
        entries = (await session.scalars(select(AuditEntry).order_by(AuditEntry.id))).all()
    assert [(e.actor, e.action, e.subject, e.before, e.after) for e in entries[1:]] == [
        ("ada", "limit.set", str(tenant.id), None, {**shown, "value": "100"}),
        ("ada", "limit.set", str(tenant.id), {**shown, "value": "100"}, {**shown, "value": "200"}),
        ("bob", "limit.removed", str(tenant.id), {**shown, "value": "200"}, None),
    ]


async def test_every_gateway_follows_a_change_by_its_notification(
    sessions: Sessions, build: Builder, follow: Callable[..., LimitFollower]
) -> None:
    await build.tenant("acme")
    one, other = follow(), follow()
    for follower in (one, other):
        await follower.start()
    limits, prices = Limits(sessions, one.follow), Prices(sessions, one.follow)
    limit = await limits.set(new("acme"), by="ada")
    assert amounts(one) == [100]  # at once where it was changed
    await until(lambda: amounts(other) == [100])
    await limits.set(new("acme", "300"), by="ada")
    await until(lambda: amounts(other) == [300])
    await limits.remove(limit.limit.id, by="ada")
    await until(lambda: amounts(other) == [])
    amount = {"input": 1, "cached_input": 1, "output": 2}
    await prices.set(NewPrice(model="model", **amount), by="ada")  # type: ignore[arg-type]
    await until(lambda: other.prices.cost("default", datetime.now(UTC).timestamp()).generated)
    assert other.prices.cost("default", datetime.now(UTC).timestamp()).of(3, 2) == 7_000


async def test_changes_while_the_connection_was_lost_are_followed_after_it(
    sessions: Sessions, build: Builder, follow: Callable[..., LimitFollower]
) -> None:
    await build.tenant("acme")
    follower = follow()
    await follower.start()
    limits = Limits(sessions)
    await limits.set(new("acme"), by="ada")
    await until(lambda: amounts(follower) == [100])  # it listens now
    async with sessions.begin() as session:
        await session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query = 'LISTEN lmaas_limits' AND datname = current_database()"
            )
        )
        session.add(
            StoredLimit(
                level="node", quantity="tokens", period="day", amount=7, effect="hard",
                changed_by="no notification",
            )
        )  # fmt: skip
        note(session, "no notification", "limit.set", "node")
    await until(lambda: amounts(follower) == [100, 7])


async def test_limits_and_prices_that_cannot_be_read_hold_up_no_other(
    *,
    sessions: Sessions,
    database: Database,
    build: Builder,
    follow: Callable[..., LimitFollower],
) -> None:
    await build.tenant("acme")
    limits, prices = Limits(sessions), Prices(sessions)
    await limits.set(new(None, "100", level="node", kind="tokens_per_day"), by="ada")
    await limits.set(new("acme", "200"), by="ada")
    amount = {"input": 1, "cached_input": 1, "output": 10}
    await prices.set(NewPrice(model="model", **amount), by="ada")  # type: ignore[arg-type]
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE limits SET period = 'aeon' WHERE level = 'node'"))
        await connection.execute(text("UPDATE prices SET output = 'NaN'"))
    follower = follow()
    await follower.start()
    assert amounts(follower) == [200]
    assert follower.prices.cost("default", time.time()) == TokenCost()
    assert [each.limit.amount for each in await limits.list(limit=9)] == [200]


async def test_what_was_used_in_the_period_before_counts(
    sessions: Sessions,
    build: Builder,
    follow: Callable[..., LimitFollower],
    a_record: Callable[..., Record],
    tmp_path: Path,
) -> None:
    tenant = await build.tenant("acme")
    app = await build.app(tenant, name="chat")
    prices = Prices(sessions)
    amount = {"input": 1, "cached_input": 1, "output": 10}
    await prices.set(NewPrice(model="model", **amount), by="ada")  # type: ignore[arg-type]
    writer = HistoryWriter(sessions, tmp_path)
    at = datetime.now(UTC)
    ids = {"tenant_id": tenant.id, "app_id": app.id, "arrived_at": at}
    for user in ("ada", "bob"):
        writer.record(a_record(**ids, id=new_id(), end_user=user))
    writer.record(a_record(id=new_id(), arrived_at=at))  # another tenant's
    await writer.flush()
    limits, now_s = Limits(sessions), at.timestamp()
    await limits.set(new("acme"), by="ada")
    await limits.set(new("acme/chat", level="user", kind="tokens_per_month"), by="ada")
    await limits.set(new("acme", "1", kind="cost_per_day"), by="ada")
    follower = follow(clock=lambda: now_s)
    await follower.start()
    lessor = Lessor(sessions, follower.ledger, clock=lambda: now_s)
    users = {"user": "ada"}
    left = {}
    for limit in follower.ledger.limits:
        name = limit.id, users.get(limit.level)
        follower.ledger.short_of(an_ask(tenant.id, app.id), now_s)  # opens its account
        lessor.want({name: 1})
        await lessor.sync()
        left[limit.level, limit.kind] = dict(follower.ledger.leased())[name].left(now_s)
    assert left == {
        ("tenant", "tokens_per_day"): 100 - 2 * 32,
        ("user", "tokens_per_month"): 100 - 32,
        ("tenant", "cost_per_day"): 10**9 - 2 * (20 + 12 * 10) * 1_000,
    }


def an_ask(tenant: UUID, app: UUID) -> Ask:
    subjects = Subjects(tenant=tenant, app=app, key=UUID(int=2), user="ada")
    return Ask(name=1, subjects=subjects, amounts={}, expected={}, ends_s=0)
