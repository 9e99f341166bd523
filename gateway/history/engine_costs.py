"""Keeps the measured cost of the engine's steps with the history that it serves."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import Sessions
from models import EngineCost

INTERVAL_S: Final = 10.0
WRITE_S: Final = 5.0

log = structlog.get_logger()


class MeasuredEngine(Struct, frozen=True, kw_only=True):
    """An engine and the cost of its steps; the fields are the columns of `models.EngineCost`."""

    gateway_id: UUID
    model: str
    device: str
    dtype: str
    measured_at: datetime
    steps: int
    error: float
    step_s: float
    prompt_token_s: float
    prompt_read_s: float
    sequence_s: float
    kv_token_s: float
    pages: int
    page_tokens: int
    context_tokens: int
    step_tokens: int | None
    max_sequences: int | None


class EngineCostWriter:
    """Stores the cost of this run of the gateway every ten seconds, and at its end.

    `measured` returns it as of now; None before enough steps. A write that fails is made up for by
    the next one, as each covers all steps so far.
    """

    def __init__(self, sessions: Sessions, measured: Callable[[], MeasuredEngine | None]) -> None:
        self._sessions = sessions
        self._measured = measured
        self._stored_steps = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to write."""
        self._task = asyncio.create_task(self._run(), name="engine cost writer")

    async def close(self) -> None:
        """Write once more and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.write()

    async def write(self) -> None:
        """Store the cost if there were steps since the last time."""
        found = self._measured()
        if found is None or found.steps == self._stored_steps:
            return
        row = asdict(found)
        statement = insert(EngineCost).values(row)
        upsert = statement.on_conflict_do_update(index_elements=["gateway_id"], set_=row)
        try:
            async with asyncio.timeout(WRITE_S), self._sessions.begin() as session:
                await session.execute(upsert)
        except (SQLAlchemyError, OSError) as error:  # TimeoutError is an OSError
            log.warning("engine_cost_delayed", reason=repr(error))
        else:
            self._stored_steps = found.steps

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.write()
