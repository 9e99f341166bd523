"""Runs claimed lines: keeps some in the queue, and writes what they end with in groups."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import LmaasError
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.jobs.batches.source import BatchLines, ClaimedLine, LineEnd

log = structlog.get_logger()

POLL_S: Final = 2.0
RETRY_S: Final = 1.0
FLUSH_S: Final = 0.2  # results of this time are written together
FLUSH_LINES: Final = 64
QUEUED: Final = 2  # times the sequences that the engine runs at once
DEFAULT_RUNNING: Final = 64


class LineFeeder:
    """Feeds the lines of jobs to the generation service."""

    def __init__(
        self, source: BatchLines, service: GenerationService, ended: Callable[[], None]
    ) -> None:
        """`ended` is called when results have been written and no line is left."""
        self._source = source
        self._service = service
        self._ended = ended
        self._running: dict[ClaimedLine, asyncio.Task[None]] = {}
        self._ends: list[LineEnd] = []
        self._writing: list[LineEnd] = []
        self._claiming = True
        self._woken = asyncio.Event()
        self._flush = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start to run lines."""
        self._tasks = [
            asyncio.create_task(self._feed(), name="batch lines"),
            asyncio.create_task(self._write(), name="batch results"),
        ]

    def stop_claiming(self) -> None:
        """Start no further line."""
        self._claiming = False

    def wake(self) -> None:
        """Look for lines soon."""
        self._woken.set()

    async def drop_lost(self) -> None:
        """Stop the lines that another gateway runs now or that have ended with their job."""
        lines = list(self._running)
        for line in await self._source.lost(lines) if lines else ():
            if task := self._running.pop(line, None):
                task.cancel()

    async def close(self) -> None:
        """Stop all lines, and write the results there are."""
        for task in (*self._tasks, *self._running.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)
        self._running.clear()
        await self._write_ends()

    def check(self) -> None:
        """AssertionError if more lines are queued than are meant to be; for tests."""
        assert len(self._running) <= self._most

    @property
    def _most(self) -> int:
        info = self._service.scheduler.engine.info
        return QUEUED * ((info and info.max_running) or DEFAULT_RUNNING)

    async def _feed(self) -> None:
        while True:
            self._woken.clear()
            wait_s = POLL_S
            try:
                room = self._most - len(self._running) - len(self._ends) - len(self._writing)
                if self._claiming and self._service.ready and room >= self._most // 4:
                    for line in await self._source.claim(room):
                        self._running[line] = asyncio.create_task(self._run(line))
            except (LmaasError, SQLAlchemyError, OSError) as error:
                log.warning("batch_lines_delayed", reason=repr(error))
                wait_s = RETRY_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), wait_s)

    async def _run(self, line: ClaimedLine) -> None:
        """Run a line to its end."""
        states: list[RequestState] = []
        try:
            states = await self._service.start(line.request)
            for state in states:
                await state.wait_for_end()
            end = LineEnd(line, states)
        except LmaasError as error:
            end = LineEnd(line, error=error)
        finally:
            for state in states:
                self._service.cancel(state)
        self._running.pop(line, None)
        self._ends.append(end)
        self._flush.set()

    async def _write(self) -> None:
        while True:
            await self._flush.wait()
            self._flush.clear()
            await asyncio.sleep(FLUSH_S)
            while self._ends or self._writing:
                try:
                    await self._write_ends()
                except (LmaasError, SQLAlchemyError, OSError) as error:
                    log.warning("batch_results_delayed", reason=repr(error))
                    await asyncio.sleep(RETRY_S)
            self.wake()
            if not self._running:
                self._ended()

    async def _write_ends(self) -> None:
        """Write a group of results; it stays here until it is written."""
        if not self._writing:
            self._writing, self._ends = self._ends[:FLUSH_LINES], self._ends[FLUSH_LINES:]
        if self._writing:
            await self._source.finished(self._writing)
            self._writing = []
