"""Subscription to Postgres notifications, by which gateways learn of changes at once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
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


class Subscription:
    """Calls `react` in the background, as `listen` does, from its start until it is closed.

    An exception of `react` is logged, and it is called again.
    """

    def __init__(
        self, database_url: str, channel: str, react: React, *, poll_s: float = POLL_S
    ) -> None:
        self._database_url = database_url
        self._channel = channel
        self._react = react
        self._poll_s = poll_s
        self._task: asyncio.Task[None] | None = None

    def start(self, name: str) -> None:
        """Start to listen, in a task of this name."""
        listening = listen(self._database_url, self._channel, self._attempt, poll_s=self._poll_s)
        self._task = asyncio.create_task(listening, name=name)

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _attempt(self) -> None:
        """React; an error, such as for data that cannot be read, ends no subscription."""
        try:
            await self._react()
        except Exception:
            log.exception("change_not_followed", channel=self._channel)


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
