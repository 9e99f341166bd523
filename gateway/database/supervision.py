"""Starts the embedded Postgres again when it dies."""

import asyncio
from typing import Final

import structlog

from gateway.database.embedded import EmbeddedPostgres
from gateway.errors import StartupFailure
from gateway.event_wait import wait_for_event

CHECK_S: Final = 0.5
MAX_BACKOFF_S: Final = 10.0

log = structlog.get_logger(__name__)


class PostgresSupervisor:
    """Keeps a started server alive until `close`; a hanging server is left alone."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._keep_alive(), name="embedded Postgres")

    async def close(self) -> None:
        """Look at the server no more; it can be stopped then. A start that runs is waited for."""
        self._closing.set()
        await self._task

    async def _keep_alive(self) -> None:
        wait_s = CHECK_S
        while not self._closing.is_set():
            await wait_for_event(self._closing, wait_s)
            if self._closing.is_set() or await asyncio.to_thread(self._postgres.running):
                continue
            log.warning("embedded_postgres_died")
            try:
                await asyncio.to_thread(self._postgres.start)
                wait_s = CHECK_S
            except StartupFailure as error:
                wait_s = min(2 * wait_s, MAX_BACKOFF_S)
                log.error("embedded_postgres_start_failed", reason=str(error), retry_s=wait_s)
