"""Authentication while the database hangs (its processes are stopped) or is dead."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest
from sqlalchemy import event, text

from gateway.database.connection import POOL_SIZE, Database
from gateway.errors import DatabaseLost
from gateway.tenancy import authentication
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import CACHE_S, DATABASE_RETRY_S, Authenticator
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.lookup import MAX_QUERIES
from gateway.tenancy.scopes import ScopedKeys
from gateway.tenancy.tenants import Tenants
from models.base import new_id
from tests.conftest import PATIENCE_S
from tests.hanging_postgres import HangingPostgres

MARGIN_S = 10.0  # for a busy machine; a query that hangs takes for ever


class Clock:
    """A clock that a test sets, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authenticator(hanging_database: Database, clock: Clock) -> Iterator[Authenticator]:
    made = Authenticator(hanging_database.sessions, clock=clock)
    yield made
    made.check()


async def new_key(database: Database) -> str:
    """The secret of a new key of a new tenant."""
    sessions = database.sessions
    tenant = await Tenants(sessions).create(f"tenant {new_id()}", by="admin")
    app = await Apps(sessions).create(tenant.id, "app", by="admin")
    return (
        await ApiKeys(sessions, Authenticator(sessions)).create(app.id, "key", by="admin")
    ).secret


async def until_accepted(authenticator: Authenticator, secret: str) -> None:
    """Return once a key is accepted: the first queries may meet a server that still recovers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await authenticator.authenticate(secret)
            except DatabaseLost:
                continue
            return


def test_deadlines_are_those_promised() -> None:
    assert authentication.KNOWN_KEY_WAIT_S < 1
    assert authentication.UNKNOWN_KEY_WAIT_S < 2


@pytest.mark.parametrize("failure", [HangingPostgres.suspend, HangingPostgres.kill])
async def test_known_key_is_served_in_time_for_as_long_as_the_database_is_away(
    *,
    hanging: HangingPostgres,
    hanging_database: Database,
    authenticator: Authenticator,
    clock: Clock,
    failure: Callable[[HangingPostgres], None],
) -> None:
    secret = await new_key(hanging_database)
    caller = await authenticator.authenticate(secret)
    failure(hanging)
    for _ in range(3):
        clock.now += 1000 * CACHE_S
        began = time.monotonic()
        assert await authenticator.authenticate(secret) == caller
        assert time.monotonic() - began < authentication.KNOWN_KEY_WAIT_S + MARGIN_S


@pytest.mark.parametrize("failure", [HangingPostgres.suspend, HangingPostgres.kill])
async def test_unknown_key_is_never_refused_as_invalid_and_accepted_once_the_database_is_back(
    hanging: HangingPostgres,
    hanging_database: Database,
    authenticator: Authenticator,
    failure: Callable[[HangingPostgres], None],
) -> None:
    secret = await new_key(hanging_database)
    failure(hanging)
    for asked in (secret, "a guess"):
        began = time.monotonic()
        with pytest.raises(DatabaseLost):
            await authenticator.authenticate(asked)
        assert time.monotonic() - began < authentication.UNKNOWN_KEY_WAIT_S + MARGIN_S
    hanging.recover()
    await until_accepted(authenticator, secret)


async def test_many_unknown_keys_at_once_hold_no_known_key_and_leak_no_connection(
    hanging: HangingPostgres, hanging_database: Database, authenticator: Authenticator, clock: Clock
) -> None:
    secret = await new_key(hanging_database)
    caller = await authenticator.authenticate(secret)
    hanging.suspend()
    began = time.monotonic()
    guesses = [
        asyncio.ensure_future(authenticator.authenticate(f"guess {number}"))
        for number in range(2000)
    ]
    await asyncio.sleep(0)
    clock.now = CACHE_S
    assert await authenticator.authenticate(secret) == caller
    assert time.monotonic() - began < authentication.KNOWN_KEY_WAIT_S + MARGIN_S
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert {type(answer) for answer in answers} == {DatabaseLost}
    authenticator.check()
    hanging.resume()
    clock.now += DATABASE_RETRY_S
    await until_accepted(authenticator, secret)
    async with asyncio.timeout(PATIENCE_S):
        while await backends(hanging_database) > POOL_SIZE + MAX_QUERIES:
            await asyncio.sleep(0.05)


async def backends(database: Database) -> int:
    """The gateway's connections, as the server counts them."""
    counted = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lmaas'")
    async with database.sessions() as session:
        return int(await session.scalar(counted) or 0)


async def test_query_that_hangs_holds_up_no_other_key(hanging_database: Database) -> None:
    first, second = await new_key(hanging_database), await new_key(hanging_database)
    async with hanging_database.sessions() as session:
        backend = psutil.Process(await session.scalar(text("SELECT pg_backend_pid()")))
    authenticator = Authenticator(hanging_database.sessions, key_lookup_s=PATIENCE_S)
    backend.suspend()  # the only connection in the pool
    held = asyncio.create_task(authenticator.authenticate(first))
    while not authenticator._lookup._running:
        await asyncio.sleep(0)
    assert await authenticator.authenticate(second)
    assert not held.done()
    backend.resume()
    with suppress(DatabaseLost):  # a busy machine: its query may have been given up
        await held


async def test_key_asked_again_while_its_query_runs_is_looked_up_once(
    hanging: HangingPostgres, hanging_database: Database
) -> None:
    secret = await new_key(hanging_database)
    authenticator = Authenticator(hanging_database.sessions, key_lookup_s=PATIENCE_S)
    statements: list[str] = []

    def record(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(hanging_database.engine.sync_engine, "before_cursor_execute", record)
    hanging.suspend()
    asked = []
    for _ in range(3):
        asked.append(asyncio.create_task(authenticator.authenticate(secret)))
        while not authenticator._lookup._running:
            await asyncio.sleep(0)
    hanging.resume()
    callers = await asyncio.gather(*asked)
    assert callers == [callers[0]] * 3
    assert len(statements) == 1


async def test_look_up_that_outlasts_its_request_is_remembered(
    hanging: HangingPostgres, hanging_database: Database
) -> None:
    secret = await new_key(hanging_database)
    authenticator = Authenticator(hanging_database.sessions, key_lookup_s=0.01)
    hanging.suspend()
    with pytest.raises(DatabaseLost):
        await authenticator.authenticate(secret)
    hanging.resume()
    async with asyncio.timeout(PATIENCE_S):
        while authenticator._lookup._running:
            await asyncio.sleep(0.01)
    hanging.suspend()
    assert await authenticator.authenticate(secret)


async def test_guessed_scoped_keys_are_database_lost_in_time(
    hanging: HangingPostgres, hanging_database: Database
) -> None:
    keys = ScopedKeys(hanging_database.sessions)
    hanging.suspend()
    began = time.monotonic()
    guesses = [keys.find(f"guess {number}") for number in range(100)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert time.monotonic() - began < authentication.UNKNOWN_KEY_WAIT_S + MARGIN_S
    assert {type(answer) for answer in answers} == {DatabaseLost}
