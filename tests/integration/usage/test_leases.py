"""Gateways that share a database share their limits: together they never exceed one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import DatabaseLost, LimitReached
from gateway.generation.holds.holds import Holds, subjects_of
from gateway.generation.request import GenerationRequest
from gateway.history.record import Record
from gateway.limits.hold_ledger import HoldLedger
from gateway.limits.leased_accounts import LeasedBudget, open_leased
from gateway.limits.limit import Kind, Limit, Quantity
from gateway.limits.request_hold import RequestHold
from gateway.usage.limits import exchange, lessor, shared_accounts
from gateway.usage.limits.lessor import Lessor
from gateway.usage.limits.limits import Limits, NewLimit
from models import LimitAccount, LimitLease
from tests.conftest import PATIENCE_S
from tests.integration.query_count import counted
from tests.unit.generation.conftest import a_prediction, a_request

fixtures = (a_request,)
NEVER_S = 3_600.0  # exchanges happen when they are asked for
NOON_S = 1_767_960_000.0  # 2026-01-09 12:00 UTC
BUDGET = 1_000
PROMPT = 3
EVENTS = {"admit": 5.0, "grow": 3.0, "settle": 4.0, "sync": 4.0, "kill": 0.3, "expire": 0.3}


class Gateway:
    """The limits of one gateway, and requests that it admits."""

    def __init__(self, sessions: Sessions, limits: list[Limit], request: GenerationRequest) -> None:
        self.now_s = NOON_S
        self.ledger = HoldLedger(limits, open_leased)
        self.lessor = Lessor(sessions, self.ledger, clock=lambda: self.now_s, sync_s=NEVER_S)
        self.holds = Holds(self.ledger, lessor=self.lessor, clock=lambda: self.now_s)
        self.used = self.unreported = self.borrowed = 0
        self.open: dict[RequestHold, int] = {}
        self._request = request

    async def admit(self, tokens: int) -> RequestHold | None:
        """A hold of this many tokens; None if it is refused."""
        answer = tokens - PROMPT
        try:
            hold = await self.holds.admit(
                self._request, PROMPT, 10_000, a_prediction(answer), lasts_s=1.0, pool=0
            )
        except LimitReached:
            return None
        self.open[hold] = tokens
        return hold

    def grow(self, hold: RequestHold, tokens: int) -> None:
        room = self.room()
        grown = self.ledger.grow(hold, hold.unit, tokens, self.now_s)
        self.open[hold] += grown
        self.borrowed += max(grown - int(room), 0)

    def settle(self, hold: RequestHold, used: int) -> None:
        del self.open[hold]
        self.ledger.settle(hold, {"tokens": used, "requests": 1}, self.now_s)
        self.used += used
        self.unreported += used

    async def sync(self) -> None:
        await self.lessor.sync()
        self.unreported = 0

    async def spend(self, tokens: int) -> None:
        """A request uses all that it held, which is reported."""
        hold = await self.admit(tokens)
        assert hold
        self.settle(hold, tokens)
        await self.sync()

    async def kill(self) -> None:
        """It ends without giving anything back."""
        task = self.lessor._task
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def room(self, quantity: Quantity = "tokens") -> float:
        return self.ledger.room(subjects_of(self._request), quantity, self.now_s)

    @property
    def outstanding(self) -> int:
        return self.used + sum(self.open.values())


MakeLimit = Callable[..., Awaitable[Limit]]
MakeGateway = Callable[..., Gateway]


@pytest.fixture
def limit(sessions: Sessions) -> MakeLimit:
    async def make(kind: Kind = "tokens_per_day", value: int = BUDGET) -> Limit:
        new = NewLimit(level="node", owner=None, kind=kind, value=str(value), effect="hard")
        return (await Limits(sessions).set(new, by="ada")).limit

    return make


@pytest.fixture
async def gateway(
    sessions: Sessions, a_request: Callable[..., GenerationRequest]
) -> AsyncIterator[MakeGateway]:
    started: list[Gateway] = []

    def start(*limits: Limit, sessions: Sessions = sessions) -> Gateway:
        started.append(Gateway(sessions, list(limits), a_request()))
        started[-1].lessor.start()
        return started[-1]

    yield start
    for each in started:
        await each.kill()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lease expires and no exchange is given up because the machine is busy."""
    monkeypatch.setattr(shared_accounts, "LEASE_S", PATIENCE_S)
    monkeypatch.setattr(lessor, "EXCHANGE_S", PATIENCE_S)


async def expire(sessions: Sessions) -> None:
    """Let time pass until all leases have expired."""
    async with sessions.begin() as session:
        past = LimitLease.expires_at - timedelta(days=1)
        await session.execute(update(LimitLease).values(expires_at=past))


async def shared(sessions: Sessions) -> tuple[int, int]:
    """The settled use of the one account of the newest period, and what is leased of it."""
    async with sessions() as session:
        newest = select(LimitAccount).order_by(LimitAccount.period_start.desc())
        account = (await session.scalars(newest)).first()
        assert account is not None
        leases = await session.scalars(select(LimitLease))
        return account.used, sum(lease.granted for lease in leases)


async def test_two_hundred_at_two_gateways_never_exceed_the_budget_and_use_it(
    limit: MakeLimit, gateway: MakeGateway
) -> None:
    budget = await limit()
    one, other = gateway(budget), gateway(budget)
    asked = [each.admit(20) for _ in range(100) for each in (one, other)]
    admitted = [hold for hold in await asyncio.gather(*asked) if hold is not None]
    assert one.outstanding + other.outstanding == 20 * len(admitted) <= BUDGET
    for each in (one, other):  # parts that one needed not become the other's
        each.now_s += 1
        await each.sync()
    for each in (one, other):
        while await each.admit(20):
            pass
    assert BUDGET - 40 < one.outstanding + other.outstanding <= BUDGET


async def test_requests_within_a_lease_need_no_query(
    limit: MakeLimit, gateway: MakeGateway, database: Database
) -> None:
    one = gateway(await limit(value=1_000_000))
    await one.admit(20)
    with counted(database) as queries:
        for _ in range(50):
            hold = await one.admit(20)
            assert hold is not None
            one.settle(hold, 10)
    assert not queries
    with counted(database) as queries:
        await one.sync()
    assert 0 < len(queries) < 10


async def test_refused_requests_do_not_query_each(
    limit: MakeLimit, gateway: MakeGateway, database: Database
) -> None:
    one = gateway(await limit(value=100))
    assert await one.admit(100)
    assert await one.admit(20) is None
    with counted(database) as queries:
        for _ in range(50):
            assert await one.admit(20) is None
    assert not queries


async def test_lease_of_a_killed_gateway_is_free_once_it_expires_but_for_what_it_reported(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    budget = await limit()
    dead, other = gateway(budget), gateway(budget)
    for _ in range(6):
        assert await dead.admit(100)
    for hold in list(dead.open)[:3]:
        dead.settle(hold, 50)
    await dead.sync()
    dead.settle(next(iter(dead.open)), 100)
    await dead.kill()
    while await other.admit(50):
        pass
    assert other.outstanding + dead.outstanding <= BUDGET
    await expire(sessions)
    other.now_s += 1
    while await other.admit(50):
        pass
    assert other.outstanding == BUDGET - 150
    assert dead.used + other.outstanding <= BUDGET + dead.unreported


async def test_gateway_that_stops_gives_back_at_once(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    budget = await limit()
    one, other = gateway(budget), gateway(budget)
    hold = await one.admit(600)
    assert hold
    one.settle(hold, 150)
    await one.lessor.close()
    assert await shared(sessions) == (150, 0)
    assert await other.admit(850)
    assert await other.admit(10) is None
    with pytest.raises(DatabaseLost):  # nothing is leased for it any more, and no one waits
        await one.admit(10)


async def test_gateway_that_was_cut_off_accounts_for_what_it_did_meanwhile(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    budget = await limit()
    one, other = gateway(budget), gateway(budget)
    first, second = await one.admit(100), await one.admit(50)
    assert first
    assert second
    one.settle(first, 100)
    await one.sync()
    one.settle(second, 30)
    await expire(sessions)
    assert await other.admit(20)
    assert (await shared(sessions))[0] == 100
    await one.sync()
    used, leased = await shared(sessions)
    assert used == 100
    assert leased >= 30 + 20
    assert one.room() == 0
    assert await one.admit(700)
    assert await other.admit(160) is None


async def test_budget_begins_again_with_its_period(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    one = gateway(await limit())
    await one.spend(BUDGET)
    assert await one.admit(10) is None
    one.now_s += 86_400
    assert await one.admit(BUDGET)
    assert (await shared(sessions))[0] == 0


async def test_exchange_that_fails_first_in_a_period_leaves_all_of_it(
    limit: MakeLimit,
    gateway: MakeGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = gateway(await limit())
    await one.spend(BUDGET)

    async def lose(*_: object) -> None:
        raise DatabaseLost("it is away")

    one.now_s += 86_400
    with monkeypatch.context() as away:
        away.setattr(exchange, "write_leases", lose)
        await one.sync()
    one.now_s += NEVER_S  # until the database is asked again
    assert await one.admit(BUDGET)


async def test_accounts_of_ended_periods_and_full_buckets_are_deleted(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    day, month, minute = [
        await limit(kind) for kind in ("tokens_per_day", "tokens_per_month", "requests_per_minute")
    ]
    one = gateway(day, month, minute)
    now = datetime.fromtimestamp(one.now_s, UTC)
    rows = [
        (day, now.date(), now, True),
        (day, now.date() - timedelta(days=1), now, True),  # another gateway's clock may be late
        (day, now.date() - timedelta(days=2), now, False),
        (month, now.date().replace(day=1), now, True),
        (month, date(2025, 12, 1), now, False),
        (minute, shared_accounts.NO_PERIOD, datetime.now(UTC), True),
        (minute, shared_accounts.NO_PERIOD, datetime.now(UTC) - timedelta(hours=2), False),
    ]
    async with sessions.begin() as session:
        for place, (of, start, filled_at, _) in enumerate(rows):
            session.add(
                LimitAccount(
                    limit_id=of.id,
                    user_digest=bytes([place]),
                    period_start=start,
                    used=0,
                    level=0.0,
                    filled_at=filled_at,
                )
            )
    await one.lessor.clean()  # not due yet
    one.now_s += lessor.CLEAN_S
    await one.lessor.clean()
    async with sessions() as session:
        left = {each.user_digest for each in await session.scalars(select(LimitAccount))}
    assert left == {bytes([place]) for place, row in enumerate(rows) if row[-1]}


async def test_account_that_is_opened_again_does_not_sum_usage_again(
    limit: MakeLimit, gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = gateway(await limit())
    await one.spend(100)
    for _ in range(3):
        one.now_s += 60
        await one.sync()
    assert one.ledger.accounts == 0

    async def sum_again(*_: object) -> int:
        raise AssertionError("the account is there")

    monkeypatch.setattr(shared_accounts, "used_in_period", sum_again)
    assert await one.admit(BUDGET - 100)
    assert await one.admit(1 + PROMPT) is None


async def test_what_a_killed_gateway_had_delivered_counts_in_the_period_of_its_arrival(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway, a_record: Callable[..., Record]
) -> None:
    budget = await limit()
    killed = gateway(budget)
    assert await killed.admit(100)
    await killed.sync()
    await killed.kill()
    await expire(sessions)
    following = gateway(budget)
    now = datetime.fromtimestamp(NOON_S, UTC)
    for arrived, tokens in ((now, 5), (now, 0), (now - timedelta(days=1), 50)):
        following.holds.charge_lost(
            a_record(arrived_at=arrived, prompt_tokens=20, generation_tokens=tokens)
        )
    await following.sync()
    assert await following.admit(BUDGET - 24) is None
    following.now_s += 1
    assert await following.admit(BUDGET - 25)


async def test_limit_of_a_minute_is_one_bucket_of_all_gateways(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    rate = await limit("requests_per_minute", 60)
    one, other = gateway(rate), gateway(rate)
    began_s = time.monotonic()  # the database's time refills the bucket meanwhile, by one a second
    admitted = await asyncio.gather(*(each.admit(9) for _ in range(60) for each in (one, other)))
    first = len([hold for hold in admitted if hold])
    assert 60 <= first <= 61 + time.monotonic() - began_s
    async with sessions.begin() as session:
        early = LimitAccount.filled_at - timedelta(seconds=30)
        await session.execute(update(LimitAccount).values(filled_at=early))
    for each in (one, other):
        each.now_s += 30
    admitted = await asyncio.gather(*(each.admit(9) for _ in range(40) for each in (one, other)))
    assert 90 <= first + len([hold for hold in admitted if hold]) <= 91 + time.monotonic() - began_s


async def test_lowered_and_removed_limits_hold_for_leases_too(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    budget = await limit()
    one = gateway(budget)
    assert await one.admit(100)
    lower = await limit(value=150)
    one.ledger.use([lower])
    await one.sync()
    assert await one.admit(60) is None
    one.now_s += 1
    assert await one.admit(50)
    await Limits(sessions).remove(lower.id, by="ada")
    one.now_s += 1
    assert await one.admit(60) is None  # until it follows, nothing can be leased
    one.ledger.use([])
    assert await one.admit(60)
    await one.sync()


async def test_without_the_database_the_lease_lasts_and_then_hard_limits_say_so(
    limit: MakeLimit, gateway: MakeGateway
) -> None:
    budget = await limit()
    away = create_async_engine("postgresql+psycopg://127.0.0.1:9/nothing")
    one = gateway(budget, sessions=async_sessionmaker(away, expire_on_commit=False))
    with pytest.raises(DatabaseLost):
        await one.admit(20)
    account = dict(one.ledger.leased())[budget.id, None]
    assert isinstance(account, LeasedBudget)
    account.grant(30, one.now_s)  # as if it had leased this before
    assert await one.admit(20)
    with pytest.raises(DatabaseLost):
        await one.admit(20)
    await away.dispose()


@pytest.mark.parametrize("seed", range(6))
async def test_any_interleaving_of_gateways_stays_within_the_budget(
    sessions: Sessions,
    limit: MakeLimit,
    gateway: MakeGateway,
    seed: int,
) -> None:
    """Holds, growth, settlements, exchanges, kills and expiries in random order.

    The oracle knows of every gateway, dead ones too, what it used and holds. A budget is exceeded
    at most by what killed gateways had not reported and what growing answers borrowed.
    """
    random = Random(seed)
    budget = await limit()
    live, dead = [gateway(budget) for _ in range(3)], list[Gateway]()
    expired = True
    for _ in range(150):
        one = random.choice(live)
        one.now_s += random.choice([0.0, 0.3, 1.0])
        match random.choices(
            ["admit", "grow", "settle", "sync", "kill", "expire"], [5, 3, 4, 4, 0.3, 0.3]
        )[0]:
            case "admit":
                await asyncio.gather(*(one.admit(random.randrange(5, 120)) for _ in range(3)))
            case "grow" if one.open:
                one.grow(random.choice(list(one.open)), random.randrange(1, 60))
            case "settle" if one.open:
                hold = random.choice(list(one.open))
                one.settle(hold, random.randrange(one.open[hold] + 1))
            case "sync":
                await one.sync()
            case "kill" if expired:
                await one.kill()
                live.remove(one)
                dead.append(one)
                live.append(gateway(budget))
                live[-1].now_s = one.now_s
                expired = False
            case "expire" if not expired:  # of the dead; the others renew theirs
                for each in live:
                    await each.sync()
                async with sessions.begin() as session:
                    await session.execute(
                        update(LimitLease)
                        .where(LimitLease.owner == dead[-1].lessor.owner)
                        .values(expires_at=text("now() - interval '1 s'"))
                    )
                dead[-1].open.clear()
                expired = True
        everyone = [*live, *dead]
        excess = sum(each.borrowed for each in everyone) + sum(each.unreported for each in dead)
        assert sum(each.outstanding for each in everyone) <= BUDGET + excess
    used, leased = await shared(sessions)
    assert used + leased <= BUDGET + sum(each.borrowed for each in everyone)


async def test_growing_answers_of_one_gateway_never_exceed_the_budget_and_use_all_of_it(
    limit: MakeLimit, gateway: MakeGateway
) -> None:
    one = gateway(await limit())
    holds = [await one.admit(30) for _ in range(5)]
    for _ in range(200):
        for hold in holds:
            assert hold
            one.grow(hold, 3)
        if one.now_s % 7 == 0:
            await one.sync()
        one.now_s += 1
    assert one.outstanding in {BUDGET - 1, BUDGET}


async def test_answers_that_grow_during_an_exchange_do_not_exceed_the_budget(
    limit: MakeLimit, gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an exchange takes cannot be borrowed before its commit, which may take long."""
    one = gateway(await limit())
    first = await one.admit(30)
    assert first
    exchange = one.lessor._exchanger.exchange

    async def growing(*given: Any) -> Any:
        found = await exchange(*given)
        one.grow(first, BUDGET)
        return found

    monkeypatch.setattr(one.lessor._exchanger, "exchange", growing)
    admitted = [await one.admit(300) for _ in range(4)]
    assert admitted[0]
    assert one.outstanding == BUDGET


async def test_users_have_accounts_of_their_own_under_no_name(
    a_request: Callable[..., GenerationRequest],
) -> None:
    limit = Limit(
        id=UUID(int=5), level="user", subject=UUID(int=2), quantity="tokens", period="day",
        amount=100,
    )  # fmt: skip
    ledger = HoldLedger([limit], open_leased)
    asked = Holds(ledger)
    for user in ("ada", "bob"):
        with pytest.raises(LimitReached):
            await asked.admit(
                a_request(end_user=user), PROMPT, 50, a_prediction(20), lasts_s=None, pool=0
            )
    assert {name for name, _ in ledger.leased()} == {(limit.id, "ada"), (limit.id, "bob")}
    assert "user_digest" in LimitAccount.__table__.c


async def test_leases_end_when_they_are_idle_and_their_accounts_are_closed(
    sessions: Sessions, limit: MakeLimit, gateway: MakeGateway
) -> None:
    limits = [await limit(), await limit("requests_per_minute", 60)]
    one = gateway(*limits)
    hold = await one.admit(100)
    assert hold
    one.now_s += 60
    await one.sync()
    assert (await leased_of(sessions, one))[0] > 100  # it holds something
    one.settle(hold, 40)
    await one.sync()
    one.now_s += 60
    await one.sync()
    assert await leased_of(sessions, one) == []
    assert one.ledger.accounts == 2
    await one.sync()
    assert one.ledger.accounts == 0
    assert await one.admit(100)
    assert one.room() + one.outstanding <= BUDGET


async def leased_of(sessions: Sessions, one: Gateway) -> list[int]:
    async with sessions() as session:
        leases = await session.scalars(select(LimitLease).filter_by(owner=one.lessor.owner))
        return [lease.granted for lease in leases]
