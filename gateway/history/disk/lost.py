"""Reads from journals what killed gateways were running."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from gateway.history.disk.journal import Progress, Started
from gateway.history.disk.spool import UNREADABLE
from gateway.history.record import LOST, Record

_lines: Final = msgspec.json.Decoder(Started | Progress)

log = structlog.get_logger()


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
        except UNREADABLE:
            unreadable += 1
    if unreadable:
        log.warning("journal_lines_unreadable", file=name, lines=unreadable)
