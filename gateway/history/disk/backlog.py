"""Lines of history until Postgres has them: in the spool, or in memory while the disk takes none.

A line is in memory first. A group of lines is written at a time, in the disk's thread, so that a
write costs the event loop nothing however long it takes. A client's last byte waits for the write,
but not for a disk that fails or stalls: what that does not take stays in memory, from where it is
inserted directly.

Disk and memory are bounded as one: beyond the bound nothing is dropped, but requests are refused
before they cost anything. Those that were accepted before are kept even so.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from gateway.history.disk.spool import Spool, line_of, read_sealed
from gateway.history.disk.thread import STALL_S, DiskThread
from gateway.history.late_embeddings import SpoolLine

MAX_SPOOL_BYTES: Final = 1 << 30
MAX_MEMORY_BYTES: Final = 64 << 20
GROUP: Final = 256  # lines of a write
RETRY_S: Final = 1.0  # after a write that failed
READ_S: Final = 30.0  # to read or to remove a file of the spool

T = TypeVar("T")

log = structlog.get_logger()


def nothing() -> None:
    """Nothing follows."""


class Waiting(Struct, frozen=True, eq=False):
    """A line in memory. `stored` is called once disk or database has it, `released` once its client
    need not wait any longer.
    """

    line: SpoolLine
    data: bytes
    stored: Callable[[], None]
    released: Callable[[], None]


class Backlog:
    """The lines of one gateway. `failed` is called for each write that fails."""

    def __init__(
        self,
        folder: Path,
        disk: DiskThread,
        failed: Callable[[], None] = nothing,
        *,
        max_bytes: int = MAX_SPOOL_BYTES,
    ) -> None:
        self.spool = Spool(folder)
        self._disk = disk
        self._reader = DiskThread("spool reader")  # an fsync holds up no write
        self._spooled_bytes = 0
        self._failed = failed
        self._max_bytes = max_bytes
        self._memory: dict[Waiting, None] = {}  # in order
        self._memory_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self._failing = False  # the newest write failed, or takes too long
        self._retry: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        """Bytes that wait for Postgres, on disk and in memory."""
        return self._spooled_bytes + self._memory_bytes

    @property
    def full(self) -> bool:
        """Whether more must not be accepted."""
        return self.size >= self._max_bytes or self._memory_bytes >= MAX_MEMORY_BYTES

    @property
    def trouble(self) -> str | None:
        """What is wrong with the disk: it is `failing` or `stalled`; None if it takes lines."""
        if self._disk.stalls:
            return "stalled"
        return "failing" if self._failing else None

    def add(
        self,
        line: SpoolLine,
        stored: Callable[[], None] = nothing,
        released: Callable[[], None] = nothing,
    ) -> None:
        """Keep a line; `released` is called at once while the disk is in trouble."""
        waiting, before = Waiting(line, line_of(line), stored, released), self.full
        self._memory[waiting] = None
        self._memory_bytes += len(waiting.data)
        if self.full and not before:
            log.error("history_full", bytes=self.size, disk=self.trouble)
        if self.trouble is not None:
            released()
        if self._retry is None:
            self._write()

    async def written(self) -> None:
        """Wait until the disk has the lines of this moment, but not while it is in trouble."""
        last = next(reversed(self._memory), None)
        while last in self._memory and self._writing is not None and not self._disk.stalls:
            await asyncio.wait([self._writing], timeout=STALL_S)

    async def sealed(self) -> list[Path]:
        """The files of the spool, oldest first; none while the disk stalls. OSError."""
        if self._disk.stalls or self._reader.stalls:
            return []
        paths, self._spooled_bytes = await _in_time(self._disk.run(partial(_sealed, self.spool)))
        return paths

    async def read(self, path: Path, aside: Callable[[int], None]) -> list[SpoolLine]:
        """The lines of a sealed file, as of `read_sealed`. OSError."""
        lines, refused = await _in_time(self._reader.run(partial(_read, path)))
        if refused:
            aside(refused)
        return lines

    async def remove(self, path: Path) -> None:
        """Remove a sealed file that is inserted. OSError."""
        self._spooled_bytes -= await _in_time(self._reader.run(partial(_remove, path)))

    def in_memory(self) -> list[Waiting]:
        """The lines that the disk does not take now."""
        return [] if self.trouble is None else [*self._memory]

    def inserted(self, lines: Sequence[Waiting]) -> None:
        """These lines of memory are in Postgres."""
        self._forget(lines)

    def close(self) -> None:
        """End the thread that reads; what is in memory then is lost."""
        if self._retry is not None:
            self._retry.cancel()
        self._reader.close()
        if self._memory:
            log.error("history_lost", lines=len(self._memory))

    def _write(self) -> None:
        """Write the oldest lines, unless a write is under way."""
        self._retry = None
        if self._writing is not None or not self._memory:
            return
        group = [waiting for waiting, _ in zip(self._memory, range(GROUP), strict=False)]
        self._writing = self._disk.run(
            partial(self.spool.append, [waiting.data for waiting in group])
        )
        patience = asyncio.get_running_loop().call_later(STALL_S, self._give_way)
        self._writing.add_done_callback(partial(self._end_write, group, patience))

    def _end_write(
        self,
        group: Sequence[Waiting],
        patience: asyncio.TimerHandle,
        writing: asyncio.Future[None],
    ) -> None:
        patience.cancel()
        self._writing = None
        error = writing.exception()
        if error is None:
            if self._failing:
                log.warning("spool_recovered", lines=len(self._memory))
            self._failing = False
            self._spooled_bytes += sum(len(waiting.data) for waiting in group)
            self._forget(group)
            self._write()
            return
        if not self._failing:
            log.error("spool_failed", reason=str(error))
        self._failing = True
        self._failed()
        self._release()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._write)

    def _give_way(self) -> None:
        """The write takes too long for clients to wait for it."""
        if not self._failing:
            log.error("spool_stalled", lines=len(self._memory))
        self._failing = True
        self._release()

    def _release(self) -> None:
        for waiting in self._memory:
            waiting.released()

    def _forget(self, lines: Sequence[Waiting]) -> None:
        """Disk or database has these lines."""
        for waiting in lines:
            if waiting in self._memory:
                del self._memory[waiting]
                self._memory_bytes -= len(waiting.data)
                waiting.stored()
                waiting.released()


async def _in_time(call: asyncio.Future[T]) -> T:
    """The result of a call on files. TimeoutError, which is an OSError, if the disk hangs."""
    async with asyncio.timeout(READ_S):
        return await call


def _sealed(spool: Spool) -> tuple[list[Path], int]:
    """The files of the spool, and their size in bytes."""
    paths = spool.seal()
    return paths, sum(path.stat().st_size for path in paths)


def _remove(path: Path) -> int:
    """Remove a file; its size in bytes."""
    size = path.stat().st_size
    path.unlink()
    return size


def _read(path: Path) -> tuple[list[SpoolLine], int]:
    """The lines of a sealed file, and how many were set aside."""
    aside: list[int] = []
    lines = read_sealed(path, aside.append)
    return lines, sum(aside)
