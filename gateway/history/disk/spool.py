"""The files of the spool, which keep history until Postgres has it."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec
import structlog

from gateway.history.audit import SpooledEntry
from gateway.history.late_embeddings import LateEmbeddings, SpoolLine
from gateway.history.record import Record

SUFFIX: Final = ".jsonl"
ASIDE: Final = ".aside"
FILE_LINES: Final = 1_024  # a file is read whole: about 1 MB

# What a line on a damaged disk may be: no JSON, no text, or nested without end.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_records = msgspec.json.Decoder(Record)
_tagged = msgspec.json.Decoder(LateEmbeddings | SpooledEntry)
TAGGED: Final = b'{"kind":'  # begins a line of anything but a record


class Spool:
    """Records, late embeddings of earlier ones, and audit entries, in files of one folder, one JSON
    line each.

    `append` writes to the open file; `seal` closes it, and so do `FILE_LINES` lines. Sealed files
    are inserted and removed. Files left by an earlier process count as sealed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._number = max((int(path.stem) for path in numbered(folder, SUFFIX)), default=0)
        self._file: IO[bytes] | None = None
        self._lines = 0  # of the open file

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines; on return they survive a killed process. OSError if the write fails.

        Then some of them may be written: lines that are there twice have the effect of one.
        """
        if self._file is None:
            self._file = self._path(self._number + 1).open("ab", buffering=0)
            self._number += 1
            self._lines = 0
        data = b"".join(lines)
        try:
            written = self._file.write(data)
        except OSError:
            self._close()
            if self._lines == 0:
                self._number -= 1  # the next write opens it again
            raise
        self._lines += len(lines)
        if written < len(data):  # the next line needs a file of its own
            self._close()
            raise OSError(errno.ENOSPC, "lines were written only in part")
        if self._lines >= FILE_LINES:
            self._close()

    def seal(self) -> list[Path]:
        """Close the open file; return every sealed file, oldest first."""
        self._close()
        return numbered(self._folder, SUFFIX)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{SUFFIX}"


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that are named by a number, in its order; others are left alone."""
    named = (path for path in folder.glob(f"*{suffix}") if path.stem.isdecimal())
    return sorted(named, key=lambda path: int(path.stem))


def read_sealed(path: Path, aside: Callable[[int], None] | None = None) -> list[SpoolLine]:
    """Fsync a sealed file and return what its lines hold, in order.

    Unreadable lines, cut off by a power loss, damaged or of another release, are set aside; `aside`
    is called with the number of those that were not before.
    """
    found: list[SpoolLine] = []
    unreadable: list[bytes] = []
    reason = ""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        for line in file:
            try:
                found.append((_tagged if line.startswith(TAGGED) else _records).decode(line))
            except UNREADABLE as error:
                unreadable.append(line)
                reason = reason or str(error)
    if new := set_aside(path, unreadable):
        log.error("lines_unreadable", file=path.name, lines=new, reason=reason)
        if aside is not None:
            aside(new)
    return found


def set_aside(path: Path, lines: Sequence[bytes]) -> int:
    """Keep lines that history refuses in a file with the suffix `.aside`, for an operator.

    Returns the number of those that were not there: a file is read again until all of it has been
    inserted.
    """
    if not lines:
        return 0
    aside = path.with_suffix(ASIDE)
    kept = set(aside.read_bytes().split(b"\n")) if aside.exists() else set()
    new = [line for each in lines if (line := each.rstrip(b"\n")) not in kept]
    if new:
        with aside.open("ab") as file:
            file.write(b"\n".join(new) + b"\n")
    return len(new)


def line_of(record: SpoolLine) -> bytes:
    """What the spool keeps, as a line of it."""
    return _encoder.encode(record) + b"\n"
