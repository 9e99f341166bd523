"""The journal of running requests: what a killed gateway leaves of them.

A request is noted when it starts, with its record as of then, and its progress while its answer is
delivered; the record of its end closes it. What is open at the next start was lost.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from gateway.history.record import LOST, Record

SUFFIX: Final = ".journal"
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


class Lost(Struct):
    """A request that is open in a journal, and what is known of it."""

    record: Record
    at: float = 0.0
    tokens: int = 0
    cached: int | None = None
    ended: bool = False

    def to_record(self) -> Record:
        """Its record: the answer ended when the gateway last wrote."""
        record = self.record
        lasted_s = self.at - record.arrived_at.timestamp()
        return replace(
            record,
            finish_reason=LOST,
            censored=True,
            generation_tokens=self.tokens,
            cached_tokens=self.cached,
            response_s=max(record.response_s, lasted_s),
        )


class _Open(Struct):
    number: int
    line: bytes
    answer: Delivering
    written: tuple[int, int | None] = (0, None)


_encode: Final = msgspec.json.Encoder().encode
_lines: Final = msgspec.json.Decoder(Started | Progress)


class Journal:
    """Notes running requests in a file of one folder; writes are grouped, and none is awaited.

    A file is compacted, written again with what is open, once that is little of it. If it cannot be
    written, requests go on without, and it is written again as soon as it can be.
    """

    def __init__(self, folder: Path, failed: Callable[[], None]) -> None:
        """`failed` is called for each write that fails."""
        self._folder = folder
        self._failed = failed
        self._numbers = max((int(path.stem) for path in journals(folder)), default=0)
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._size = 0
        self._open: dict[UUID, _Open] = {}
        self._open_bytes = 0
        self._started = 0
        self._ended: list[int] = []
        self._failing = False  # it could not be written
        self._retry_s: float | None = None  # when it is tried again
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The number of open requests."""
        return len(self._open)

    def start(self, begun: Iterable[Begun]) -> None:
        """Note requests that start; on return they survive a killed process."""
        lines = []
        for record, answer in begun:
            self._started += 1
            line = _encode(Started(self._started, record)) + b"\n"
            self._open[record.id] = _Open(self._started, line, answer)
            self._open_bytes += len(line)
            lines.append(line)
        self._write(b"".join(lines))
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
            if time.monotonic() >= self._retry_s:
                self._compact()
        elif self._size > max(MIN_BYTES, GROWTH * self._open_bytes):
            self._compact()
        elif ended or grown:
            self._write(_encode(Progress(time.time(), grown, ended)) + b"\n")

    def close(self) -> None:
        """Write the rest; without open requests nothing is left."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._path is not None and not self._open:
            self._path.unlink(missing_ok=True)
            self._path = None

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
        before, old = self._path, self._file
        self._path = self._file = self._retry_s = None
        states = [(each.number, *each.written) for each in self._open.values()]
        progress = _encode(Progress(time.time(), states)) + b"\n"
        if self._write(b"".join(each.line for each in self._open.values()) + progress):
            if before is not None:
                before.unlink(missing_ok=True)
        else:
            self._discard()
            self._path = before
        if old is not None:
            old.close()

    def _write(self, data: bytes) -> bool:
        """Whether it is written. The first failure in a row is logged; `flush` tries again."""
        if self._retry_s is not None or not data:
            return False
        try:
            if self._file is None:
                self._numbers += 1
                self._path = self._folder / f"{self._numbers:012d}{SUFFIX}"
                self._file, self._size = self._path.open("ab", buffering=0), 0
            written = self._file.write(data)
            self._size += written
        except OSError as error:
            return self._note_failure(str(error))
        if written < len(data):
            return self._note_failure("a line was written only in part")
        if self._failing:
            self._failing = False
            log.warning("journal_recovered", open=len(self._open))
        return True

    def _note_failure(self, reason: str) -> bool:
        """Always false."""
        if not self._failing:
            log.warning("journal_failed", reason=reason, open=len(self._open))
        self._failing, self._retry_s = True, time.monotonic() + RETRY_S
        self._failed()
        return False

    def _discard(self) -> None:
        """Remove a file that could not be written whole."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if self._open or self._ended:
            self._schedule()


def journals(folder: Path) -> list[Path]:
    """The journals in a folder, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: int(path.stem))


def read_lost(paths: Iterable[Path]) -> list[Record]:
    """The records of the requests that are open in journals of ended gateways.

    Lines that a kill or a full disk cut off are left out. A request may be in several files, of
    which one was to replace the other.
    """
    found: dict[UUID, Lost] = {}
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            _read(file, path.name, found)
    return [each.to_record() for each in found.values() if not each.ended]


def _read(file: IO[bytes], name: str, found: dict[UUID, Lost]) -> None:
    numbered: dict[int, Lost] = {}
    at = 0.0
    for line in _readable(file, name):
        if isinstance(line, Started):
            record = line.record
            numbered[line.number] = found.setdefault(record.id, Lost(record))
            continue
        at = max(at, line.at)
        for number, tokens, cached in line.delivered:
            if lost := numbered.get(number):
                lost.tokens = max(lost.tokens, tokens)
                lost.cached = lost.cached if cached is None else cached
        for number in line.ended:
            if lost := numbered.get(number):
                lost.ended = True
    for lost in numbered.values():
        lost.at = max(lost.at, at)


def _readable(file: IO[bytes], name: str) -> Iterator[Started | Progress]:
    unreadable = 0
    for line in file:
        try:
            yield _lines.decode(line)
        except msgspec.DecodeError:
            unreadable += 1
    if unreadable:
        log.warning("journal_lines_unreadable", file=name, lines=unreadable)
