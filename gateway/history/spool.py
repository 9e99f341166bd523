"""The local spool: a request's record is on disk before its client gets the last byte."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
import structlog

from gateway.history.audit import SpooledEntry
from gateway.history.late_embeddings import LateEmbeddings, SpoolLine
from gateway.history.record import Record

SUFFIX: Final = ".jsonl"
ASIDE: Final = ".aside"

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_records = msgspec.json.Decoder(Record)
_tagged = msgspec.json.Decoder(LateEmbeddings | SpooledEntry)
TAGGED: Final = b'{"kind":'  # begins a line of anything but a record


class Spool:
    """Records, late embeddings of earlier ones, and audit entries, in files of one folder, one JSON
    line each.

    `append` writes to the open file; `seal` closes it. The writer inserts and removes sealed files.
    Files left by an earlier process count as sealed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        left = (int(path.stem) for path in folder.glob(f"*{SUFFIX}"))
        self._number = max(left, default=0)
        self._file: IO[bytes] | None = None

    def append(self, record: SpoolLine) -> None:
        """Write one line; it survives a killed process. OSError if the write fails."""
        if self._file is None:
            self._number += 1
            self._file = self._path(self._number).open("ab", buffering=0)
        line = line_of(record) + b"\n"
        if self._file.write(line) != len(line):  # the next line needs a file of its own
            self._file.close()
            self._file = None
            raise OSError(errno.ENOSPC, "a record was written only in part")

    def seal(self) -> list[Path]:
        """Close the open file; return every sealed file, oldest first."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: int(path.stem))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{SUFFIX}"


def read_sealed(path: Path) -> list[SpoolLine]:
    """Fsync a sealed file and return what its lines hold, in order.

    Unreadable lines, cut off by a power loss or written by another release, are set aside.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return list(_lines(path, file))


def _lines(path: Path, file: IO[bytes]) -> Iterator[SpoolLine]:
    for number, line in enumerate(file, 1):
        try:
            yield (_tagged if line.startswith(TAGGED) else _records).decode(line)
        except msgspec.DecodeError as error:
            log.error("record_unreadable", file=path.name, line=number, reason=str(error))
            set_aside(path, line)


def set_aside(path: Path, line: bytes) -> None:
    """Keep a line that history refuses in a file with the suffix `.aside`, for an operator."""
    with path.with_suffix(ASIDE).open("ab") as kept:
        kept.write(line.rstrip(b"\n") + b"\n")


def line_of(record: SpoolLine) -> bytes:
    """What the spool keeps, as a line of it."""
    return _encoder.encode(record)
