"""Every wait for a server that hangs ends, and no connection is lost to the pool by it."""

import asyncio
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from gateway.database.bounded_connection import CANCEL_S, ROLLBACK_S
from gateway.database.connection import POOL_SIZE, Database
from gateway.database.errors import CONNECTION_S, transaction
from gateway.errors import DatabaseLost, NotFound
from tests.conftest import PATIENCE_S
from tests.hanging_postgres import HangingPostgres
from tests.integration.conftest import checked_out

MARGIN_S = 10.0  # for a busy machine; a statement that hangs takes for ever
ONE = text("SELECT 1")
SLEEP = text("SELECT pg_sleep(3600)")


async def reads(database: Database, within_s: float = PATIENCE_S) -> None:
    async with transaction(database.sessions, within_s=within_s) as session:
        await session.execute(ONE)


async def test_transactions_end_in_time_and_give_their_connections_back(
    hanging: HangingPostgres,
    hanging_database: Database,
    suspend: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await asyncio.gather(*(reads(hanging_database) for _ in range(POOL_SIZE)))
    suspend()
    began = time.monotonic()
    many = [reads(hanging_database) for _ in range(5 * POOL_SIZE)]
    answers = await asyncio.gather(*many, return_exceptions=True)
    assert time.monotonic() - began < CONNECTION_S + CANCEL_S + MARGIN_S
    assert {type(answer) for answer in answers} == {DatabaseLost}
    assert checked_out(hanging_database) == 0
    monkeypatch.undo()  # a busy machine may need the whole wait
    hanging.resume()
    await asyncio.gather(*(reads(hanging_database) for _ in range(POOL_SIZE)))
    assert checked_out(hanging_database) == 0


async def test_server_that_stops_answering_inside_a_transaction_is_lost(
    hanging: HangingPostgres, hanging_database: Database
) -> None:
    async def read_twice() -> None:
        async with transaction(hanging_database.sessions, within_s=1.0) as session:
            await session.execute(ONE)
            hanging.suspend()
            await session.execute(ONE)

    began = time.monotonic()
    with pytest.raises(DatabaseLost):
        await read_twice()
    assert time.monotonic() - began < 1.0 + CANCEL_S + MARGIN_S
    assert checked_out(hanging_database) == 0


async def test_rollback_of_a_server_that_hangs_ends(
    hanging: HangingPostgres, hanging_database: Database
) -> None:
    async def find_nothing() -> None:
        async with transaction(hanging_database.sessions) as session:
            await session.execute(ONE)
            hanging.suspend()
            raise NotFound("there is nothing")

    began = time.monotonic()
    with pytest.raises(DatabaseLost):
        await find_nothing()
    assert time.monotonic() - began < ROLLBACK_S + CANCEL_S + MARGIN_S
    assert checked_out(hanging_database) == 0


async def test_statement_given_up_does_not_run_on_in_the_server(hanging_database: Database) -> None:
    with pytest.raises(DatabaseLost):
        async with transaction(hanging_database.sessions, within_s=0.2) as session:
            await session.execute(SLEEP)
    assert checked_out(hanging_database) == 0
    running = text("SELECT count(*) FROM pg_stat_activity WHERE query = :query")
    async with asyncio.timeout(PATIENCE_S), hanging_database.sessions() as session:
        while await session.scalar(running, {"query": SLEEP.text}):
            await session.rollback()  # a transaction sees one snapshot of the activity


async def test_statement_without_a_transactions_limit_has_the_connections(
    hanging: HangingPostgres,
) -> None:
    database = await Database.open(hanging.url, statement_s=1.0)
    try:
        for _ in range(2):
            with pytest.raises(Exception, match=r"statement timeout|in time"):
                async with database.engine.begin() as connection:
                    await connection.execute(SLEEP)
        async with database.engine.begin() as connection:
            assert await connection.scalar(text("SHOW statement_timeout")) == "1s"
    finally:
        await database.close()


async def test_operators_own_limit_is_kept(hanging: HangingPostgres) -> None:
    database = await Database.open(f"{hanging.url}&options=-cstatement_timeout%3D7s")
    try:
        async with database.engine.begin() as connection:
            assert await connection.scalar(text("SHOW statement_timeout")) == "7s"
    finally:
        await database.close()
