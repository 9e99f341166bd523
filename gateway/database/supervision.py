"""Watches the database: whether it answers, and that an embedded server lives."""

import asyncio
from typing import Final

import psycopg
import structlog

from gateway.database.address import connection_parameters
from gateway.database.bounded_connection import BoundedConnection
from gateway.database.embedded import EmbeddedPostgres
from gateway.errors import StartupFailure
from gateway.event_wait import wait_for_event

CHECK_S: Final = 0.5  # of the embedded server's process
BEAT_S: Final = 5.0  # between two questions, and the longest wait for an answer
MAX_MISSED_BEATS: Final = 6  # after them an embedded server hangs
MAX_BACKOFF_S: Final = 10.0

log = structlog.get_logger(__name__)


class DatabaseWatch:
    """Asks the server of `url` for a sign of life until `close`.

    `answers` states whether the last question was answered. An embedded server that dies is started
    again, and one that hangs is killed first; `restarts` counts that.
    """

    def __init__(self, url: str, postgres: EmbeddedPostgres | None = None) -> None:
        self.url = url
        # The time limit of a beat comes first: an error is an answer, the end of the limit is none.
        self._parameters = connection_parameters(url) | {"connect_timeout": int(2 * BEAT_S)}
        self.answers = True
        self.restarts = 0
        self._missed = 0
        self._closing = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask_at_beats(), name="database heartbeat")]
        if postgres is not None:
            task = asyncio.create_task(self._keep_alive(postgres), name="embedded Postgres")
            self._tasks.append(task)

    async def close(self) -> None:
        """Look at the server no more; it can be stopped then. A start that runs is waited for."""
        self._closing.set()
        await asyncio.gather(*self._tasks)

    async def _ask_at_beats(self) -> None:
        while not self._closing.is_set():
            await wait_for_event(self._closing, BEAT_S)
            if not self._closing.is_set():
                self._note(await self._silence())

    async def _silence(self) -> str | None:
        """Why the server did not answer; None if it did. Counts the beats without any answer."""
        try:
            async with asyncio.timeout(BEAT_S):
                connection = await BoundedConnection.open(self._parameters, None)
                await connection.close()
        except TimeoutError:
            self._missed += 1
            return f"no answer within {BEAT_S:.0f} s"
        except psycopg.Error as error:
            self._missed = 0
            return " ".join(str(error).split())
        self._missed = 0
        return None

    def _note(self, silence: str | None) -> None:
        if self.answers and silence is not None:
            log.error("database_lost", reason=silence)
        elif not self.answers and silence is None:
            log.info("database_found")
        self.answers = silence is None

    async def _keep_alive(self, postgres: EmbeddedPostgres) -> None:
        wait_s = CHECK_S
        while not self._closing.is_set():
            await wait_for_event(self._closing, wait_s)
            if self._missed >= MAX_MISSED_BEATS:
                log.error("embedded_postgres_hung", silent_s=self._missed * BEAT_S)
                self._missed = 0
                await asyncio.to_thread(postgres.kill)
            if self._closing.is_set() or await asyncio.to_thread(postgres.running):
                continue
            log.warning("embedded_postgres_died")
            self.restarts += 1
            try:
                await asyncio.to_thread(postgres.start)
                wait_s = CHECK_S
            except StartupFailure as error:
                wait_s = min(2 * wait_s, MAX_BACKOFF_S)
                log.error("embedded_postgres_start_failed", reason=str(error), retry_s=wait_s)
