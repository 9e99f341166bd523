"""The journal of running requests: what a killed gateway leaves of them.

A request is noted when it starts, with its record as of then, and its progress while its answer is
delivered; the record of its end closes it. What is open at the next start was lost.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from gateway.history.disk.journal_file import JournalFile
from gateway.history.disk.thread import STALL_S, DiskThread
from gateway.history.record import Record

FLUSH_S: Final = 0.025  # as often as a stream is written to its client
RETRY_S: Final = 1.0  # after a failed write
MIN_BYTES: Final = 1 << 20  # below it a file is not compacted
GROWTH: Final = 4  # a file is compacted at this multiple of what is open

log = structlog.get_logger()


class Delivering(Protocol):
    """A running answer."""

    @property
    def delivered_tokens(self) -> int:
        """Tokens that its client has been sent."""

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that were not computed; None: not known."""


Begun: TypeAlias = tuple[Record, Delivering]


class Started(Struct, frozen=True, tag_field="kind", tag="started"):
    """A request started; its later lines in this file name it by the number."""

    number: int
    record: Record


class Progress(Struct, frozen=True, tag_field="kind", tag="progress"):
    """What happened since the line before, at a Unix time.

    `delivered` has number, tokens and cached tokens of each answer that has grown, `ended` the
    numbers of those whose records are stored.
    """

    at: float
    delivered: list[tuple[int, int, int | None]] = []
    ended: list[int] = []


class _Open(Struct):
    number: int
    line: bytes
    answer: Delivering
    written: tuple[int, int | None] = (0, None)


_encode: Final = msgspec.json.Encoder().encode


class Journal:
    """Notes running requests in a file of one folder; writes are grouped, and none is awaited.

    The file is compacted, written again with what is open, once that is little of it. If the disk
    fails or stalls, requests go on without, and it is written again as soon as it can be.
    """

    def __init__(self, folder: Path, disk: DiskThread, failed: Callable[[], None]) -> None:
        """`failed` is called for each write that fails."""
        self._disk = disk
        self._failed = failed
        self._file = JournalFile(folder)
        self._size = 0  # of the file, as of the newest write
        self._open: dict[UUID, _Open] = {}
        self._open_bytes = 0
        self._started = 0
        self._ended: list[int] = []
        self._writes = 0  # under way
        self._failing = False  # it could not be written
        self._retry_s: float | None = None  # when it is tried again
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The number of open requests."""
        return len(self._open)

    def start(self, begun: Iterable[Begun]) -> None:
        """Note requests that start; in a moment they survive a killed process."""
        lines = []
        for record, answer in begun:
            self._started += 1
            line = _encode(Started(self._started, record)) + b"\n"
            self._open[record.id] = _Open(self._started, line, answer)
            self._open_bytes += len(line)
            lines.append(line)
        self._append(b"".join(lines))
        self._schedule()

    def end(self, request: UUID) -> None:
        """Close a request whose record is stored. Does nothing for another."""
        found = self._open.pop(request, None)
        if found is not None:
            self._open_bytes -= len(found.line)
            self._ended.append(found.number)
            self._schedule()

    def flush(self) -> None:
        """Write what happened since the last call."""
        ended, self._ended = self._ended, []
        grown = self._grown()
        if self._retry_s is not None:
            if time.monotonic() >= self._retry_s and not self._disk.stalls:
                self._compact()
        elif self._size > max(MIN_BYTES, GROWTH * self._open_bytes):
            self._compact()
        elif ended or grown:
            self._append(_encode(Progress(time.time(), grown, ended)) + b"\n")

    async def close(self) -> None:
        """Write the rest, unless the disk stalls; without open requests nothing is left."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        closing = self._disk.run(partial(self._file.close, remove=not self._open))
        await asyncio.wait([closing], timeout=STALL_S)
        if closing.done():
            closing.result()

    def _grown(self) -> list[tuple[int, int, int | None]]:
        grown = []
        for each in self._open.values():
            now = each.answer.delivered_tokens, each.answer.cached_tokens
            if now != each.written:
                each.written = now
                grown.append((each.number, *now))
        return grown

    def _compact(self) -> None:
        """Begin a file with what is open, and remove the one before it."""
        self._retry_s = None
        self._size = 0  # until it is written
        states = [(each.number, *each.written) for each in self._open.values()]
        progress = _encode(Progress(time.time(), states)) + b"\n"
        data = b"".join(each.line for each in self._open.values()) + progress
        self._write(partial(self._file.replace, data))

    def _append(self, data: bytes) -> None:
        """Write lines; while the disk is in trouble, they are written at the next compaction."""
        if self._retry_s is not None or not data:
            return
        if self._disk.stalls:
            self._note_failure("the disk stalls")
            return
        self._write(partial(self._file.append, data))

    def _write(self, call: Callable[[], int]) -> None:
        self._writes += 1
        self._disk.run(call).add_done_callback(self._end_write)

    def _end_write(self, writing: asyncio.Future[int]) -> None:
        self._writes -= 1
        error = writing.exception()
        if error is not None:
            self._note_failure(str(error))
            return
        self._size = writing.result()
        if self._failing and self._retry_s is None:
            self._failing = False
            log.warning("journal_recovered", open=len(self._open))

    def _note_failure(self, reason: str) -> None:
        """The first failure in a row is logged; `flush` tries again."""
        if self._retry_s is not None:
            return  # what was on its way behind a write that failed
        if not self._failing:
            log.warning("journal_failed", reason=reason, open=len(self._open))
        self._failing, self._retry_s = True, time.monotonic() + RETRY_S
        self._failed()

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._writes:  # else what happened meanwhile is in the next one
            self.flush()
        if self._open or self._ended:
            self._schedule()
