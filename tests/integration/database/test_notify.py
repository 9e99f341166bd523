"""Subscriptions to notifications, on a real server."""

import asyncio

from sqlalchemy import text

from gateway.database.connection import Database
from gateway.database.notify import Subscription
from tests.conftest import PATIENCE_S

ONLY = 3_600.0  # seconds between polls: only a notification comes


async def test_error_of_what_follows_ends_no_subscription(
    database: Database, postgres_url: str
) -> None:
    called = asyncio.Queue[int]()

    async def react() -> None:
        called.put_nowait(called.qsize())
        raise ValueError("a row that cannot be read")

    subscription = Subscription(postgres_url, "a_channel", react, poll_s=ONLY)
    subscription.start("a subscription")
    async with asyncio.timeout(PATIENCE_S):
        await called.get()
        while called.empty():  # until it listens
            async with database.engine.begin() as connection:
                await connection.execute(text("NOTIFY a_channel"))
    await subscription.close()
