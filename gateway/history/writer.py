"""Inserts history records in groups, off the request path, each once; late embeddings follow.

Entries of the audit trail that must not wait for the database take the same way.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.history.audit import SpooledEntry, add_spooled
from gateway.history.insertion import insert_rows
from gateway.history.late_embeddings import (
    ADD,
    LateEmbeddings,
    SpoolLine,
    merged,
    parameters,
)
from gateway.history.pricing import price_ids
from gateway.history.record import Record
from gateway.history.spool import Spool, line_of, read_sealed, set_aside
from models import App, Instruction, Tenant

FLUSH_INTERVAL_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
# Of a transaction, so that its turns of the event loop are short. Several statements in one
# transaction would lock sums of usage in an order that differs from gateway to gateway.
MAX_ROWS: Final = 16
INSERT_S: Final = 30.0
CLOSE_S: Final = 5.0  # what is not inserted then stays in the spool
MAX_KNOWN_INSTRUCTIONS: Final = 100_000
KNOWN_INSTRUCTIONS_S: Final = 600.0  # then they are inserted again: some may have been erased

Line = TypeVar("Line")

log = structlog.get_logger()


class HistoryWriter:
    """Accepts records of finished requests and inserts them in groups.

    A record stays in the spool until Postgres has committed it; inserting it twice has no effect,
    by its key. If the spool cannot be written, records wait in memory.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], folder: Path) -> None:
        self._sessions = sessions
        self._spool = Spool(folder)
        self._unspooled: list[Record] = []
        self._unspooled_late: list[LateEmbeddings] = []
        self._unspooled_entries: list[SpooledEntry] = []
        self._known_instructions: set[tuple[bytes, str]] = set()
        self._known_until = float("-inf")
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to insert: first what an earlier process left, then new records."""
        self._dirty.set()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Insert the remaining records; those that Postgres does not accept stay in the spool."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.flush()
        except (SQLAlchemyError, OSError) as error:  # TimeoutError is an OSError
            log.error("history_kept_in_spool", reason=repr(error))

    def record(self, record: Record) -> None:
        """Store the record of a finished request; on return it survives a killed process."""
        if not self._spooled(record):
            self._unspooled.append(record)

    def add_embeddings(self, late: LateEmbeddings) -> None:
        """Store vectors that came after the record of their request, as `record` does."""
        if not self._spooled(late):
            self._unspooled_late.append(late)

    def add_entry(self, entry: SpooledEntry) -> None:
        """Store an entry of the audit trail, as `record` does."""
        if not self._spooled(entry):
            self._unspooled_entries.append(entry)

    def _spooled(self, line: SpoolLine) -> bool:
        """Whether a line that is to be stored is in the spool; if not, memory must keep it."""
        self._dirty.set()
        try:
            self._spool.append(line)
        except OSError as error:
            log.error("spool_failed", reason=str(error))
            return False
        return True

    async def flush(self) -> None:
        """Insert everything recorded so far. SQLAlchemyError if Postgres does not accept it.

        Late embeddings come after all records that were there when they were.
        """
        late, entries = list(self._unspooled_late), list(self._unspooled_entries)
        unspooled = list(self._unspooled)
        for part in _parts(unspooled):
            await self._insert(part)
            del self._unspooled[: len(part)]
        for path in self._spool.seal():
            await self._insert_file(path)
            path.unlink()
        for some in _parts(late):
            await self._add_embeddings(some)
            del self._unspooled_late[: len(some)]
        for noted in _parts(entries):
            await self._add_entries(noted)
            del self._unspooled_entries[: len(noted)]

    async def _insert_file(self, path: Path) -> None:
        lines = await asyncio.to_thread(read_sealed, path)
        for noted in _parts([line for line in lines if isinstance(line, SpooledEntry)]):
            await self._add_entries(noted)
        records, late = merged(line for line in lines if not isinstance(line, SpooledEntry))
        for part in _parts(records):
            try:
                await self._insert(part)
            except DataError:
                await self._insert_one_by_one(path, part)
        for some in _parts(late):
            await self._add_embeddings(some)

    async def _insert_one_by_one(self, path: Path, records: Sequence[Record]) -> None:
        """Insert one by one, setting aside the records that Postgres refuses."""
        for record in records:
            try:
                await self._insert([record])
            except DataError as error:
                log.error("record_refused", request=str(record.id), reason=str(error.orig))
                set_aside(path, line_of(record))

    async def _run(self) -> None:
        backoff = FLUSH_INTERVAL_S
        while True:
            await self._dirty.wait()
            await asyncio.sleep(backoff)
            self._dirty.clear()
            try:
                await self.flush()
                backoff = FLUSH_INTERVAL_S
            except Exception as error:  # noqa: BLE001  later records must be inserted
                backoff = min(2 * backoff, MAX_BACKOFF_S)
                self._dirty.set()
                log.warning("history_delayed", reason=repr(error), retry_s=backoff)

    async def _insert(self, records: Sequence[Record]) -> None:
        async with asyncio.timeout(INSERT_S), self._sessions() as session, session.begin():
            permitted = await _permitted(session, records)
            instructions = self._new_instructions(
                (each.instruction_hash, each.embedder, each.instruction_embedding)
                for each in permitted
            )
            prices = await price_ids(session, permitted)
            rows = [
                _row(record) | {"price_id": price}
                for record, price in zip(permitted, prices, strict=True)
            ]
            await insert_rows(session, rows)
            await _insert_instructions(session, instructions)
        self._known_instructions.update(instructions)

    async def _add_embeddings(self, late: Sequence[LateEmbeddings]) -> None:
        """Add vectors to rows that are there, and may be learned from."""
        by_id = {each.id: each for each in late}
        async with asyncio.timeout(INSERT_S), self._sessions() as session, session.begin():
            found = await session.execute(ADD, parameters(late))
            instructions = self._new_instructions(
                (bytes(row.instruction_hash), by_id[row.id].embedder, by_id[row.id].instruction)
                for row in found
            )
            await _insert_instructions(session, instructions)
        self._known_instructions.update(instructions)

    async def _add_entries(self, entries: Sequence[SpooledEntry]) -> None:
        async with asyncio.timeout(INSERT_S), self._sessions() as session, session.begin():
            await add_spooled(session, entries)

    def _new_instructions(
        self, found: Iterable[tuple[bytes, str | None, bytes | None]]
    ) -> dict[tuple[bytes, str], bytes]:
        """Embeddings of instructions that are new, of those found, by hash and embedder."""
        now = time.monotonic()
        if len(self._known_instructions) > MAX_KNOWN_INSTRUCTIONS or now > self._known_until:
            self._known_instructions.clear()
            self._known_until = now + KNOWN_INSTRUCTIONS_S
        return {
            (digest, embedder): vector
            for digest, embedder, vector in found
            if vector and embedder and (digest, embedder) not in self._known_instructions
        }


async def _insert_instructions(
    session: AsyncSession, instructions: Mapping[tuple[bytes, str], bytes]
) -> None:
    if instructions:
        known = [
            {"hash": key, "embedder": embedder, "embedding": vector}
            for (key, embedder), vector in instructions.items()
        ]
        await session.execute(insert(Instruction).on_conflict_do_nothing(), known)


async def _permitted(session: AsyncSession, records: Sequence[Record]) -> list[Record]:
    """The records; with their usage only those of tenants that opted out of learning, and of
    deleted tenants and apps.

    Tenants are locked against deletion, so that its erasure finds all rows that are not so reduced.
    """
    ids = {record.tenant_id for record in records}
    locked = (
        select(Tenant.id, Tenant.learning & Tenant.deleted_at.is_(None))
        .where(Tenant.id.in_(ids))
        .order_by(Tenant.id)
        .with_for_update(read=True, key_share=True)
    )
    reduced = {owner for owner, learns in await session.execute(locked) if not learns}
    apps = {record.app_id for record in records}
    deleted = select(App.id).where(App.id.in_(apps), App.deleted_at.is_not(None))
    reduced |= {*await session.scalars(deleted)}
    return [
        record.unlearned() if reduced & {record.tenant_id, record.app_id} else record
        for record in records
    ]


def _parts(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """Of at most `MAX_ROWS`."""
    return (lines[start : start + MAX_ROWS] for start in range(0, len(lines), MAX_ROWS))


def _row(record: Record) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    del row["instruction_embedding"]
    return row | {"hard": record.hard}
