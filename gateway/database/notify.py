"""Subscription to Postgres notifications, by which gateways learn of changes at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import psycopg
import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.address import connection_parameters

log = structlog.get_logger()

LIMITS: Final = "lmaas_limits"  # channel of changed limits and prices
POLL_S: Final = 30.0  # in case a notification is lost
RECONNECT_S: Final = 2.0

React: TypeAlias = Callable[[], Awaitable[None]]


async def unchanged() -> None:
    """What is called after a change if nothing in this process follows it."""


async def notify(session: AsyncSession, channel: str) -> None:
    """Notify the listeners of a channel once the transaction is committed."""
    await session.execute(select(func.pg_notify(channel, "")))


async def listen(database_url: str, channel: str, react: React, *, poll_s: float = POLL_S) -> None:
    """Call `react` now, after each notification of a channel and every `poll_s`, forever.

    Without a connection it is called every RECONNECT_S. Exceptions of `react` propagate.
    """
    parameters = connection_parameters(database_url)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                **parameters, autocommit=True
            ) as connection:
                await connection.execute(f"LISTEN {channel}")
                while True:
                    await react()
                    async for _ in connection.notifies(timeout=poll_s, stop_after=1):
                        pass
        except (psycopg.Error, OSError) as error:
            log.warning("listener_disconnected", channel=channel, reason=str(error).strip())
        await asyncio.sleep(RECONNECT_S)
        await react()
