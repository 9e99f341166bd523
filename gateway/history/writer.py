"""Inserts history records in groups, off the request path, each once; late embeddings follow.

What was running when a gateway was killed becomes records at the next start. Entries of the audit
trail that must not wait for the database take the same way.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.history.audit import SpooledEntry, add_spooled
from gateway.history.insertion import insert_rows
from gateway.history.journal import Begun, Journal, journals, read_lost
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
# Of a transaction, so that its turns of the event loop are short: 1 ms. Several statements in one
# transaction would lock sums of usage in an order that differs from gateway to gateway.
MAX_ROWS: Final = 64
INSERT_S: Final = 30.0
CLOSE_S: Final = 5.0  # what is not inserted then stays in the spool
MAX_KNOWN_INSTRUCTIONS: Final = 100_000
KNOWN_INSTRUCTIONS_S: Final = 600.0  # then they are inserted again: some may have been erased
MAX_UNSPOOLED: Final = 20_000  # records in memory, while neither disk nor database takes them
EVENTS: Final = ("lost", "journal_failed", "spool_failed", "set_aside", "dropped")

# In the order of their keys, so that gateways do not lock one another out.
_INSERT_INSTRUCTIONS: Final = insert(Instruction).on_conflict_do_update(
    index_elements=["hash", "embedder"],
    set_={"used_at": func.now()},
    where=Instruction.used_at < func.now() - text("interval '1 day'"),
)

Line = TypeVar("Line")

log = structlog.get_logger()


class HistoryWriter:
    """Accepts records of finished requests and inserts them in groups.

    A record stays in the spool until Postgres has committed it; inserting it twice has no effect,
    by its key. If the spool cannot be written, records wait in memory.

    `counts` are of what went wrong: requests that a killed gateway had been running, failed writes
    of journal and spool, lines that were set aside, and records dropped since neither disk nor
    database took them.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], folder: Path) -> None:
        self._sessions = sessions
        self._folder = folder
        self._spool = Spool(folder)
        self.counts = dict.fromkeys(EVENTS, 0)
        self._journal = Journal(folder, partial(self._count, "journal_failed"))
        self.lost: list[Record] = []
        self._spooling = True  # the last line could be written
        self._unspooled: list[Record] = []
        self._unspooled_late: list[LateEmbeddings] = []
        self._unspooled_entries: list[SpooledEntry] = []
        self._known_instructions: set[tuple[bytes, str]] = set()
        self._known_until = float("-inf")
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to insert: first what an earlier process left, then new records.

        `lost` are then the requests that it was running when it was killed.
        """
        self.lost = await asyncio.to_thread(self._take_over)
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
        self._journal.close()

    def _take_over(self) -> list[Record]:
        """Record what a killed gateway had been running, and return it.

        Its end may be in the spool already: the kill came before the journal had it.
        """
        left = journals(self._folder)
        lost = {record.id: record for record in read_lost(left)}
        for path in self._spool.seal() if lost else ():
            for line in read_sealed(path, partial(self._count, "set_aside")):
                if isinstance(line, Record):
                    lost.pop(line.id, None)
        try:
            for record in lost.values():
                self._spool.append(record)
        except OSError as error:
            log.error("lost_requests_not_recorded", requests=len(lost), reason=str(error))
            return []
        for path in left:
            path.unlink()
        if lost:
            self._count("lost", len(lost))
            tokens = sum(record.generation_tokens for record in lost.values())
            log.warning("requests_lost", requests=len(lost), tokens=tokens)
        return [*lost.values()]

    def note_starts(self, begun: Sequence[Begun]) -> None:
        """Note requests that start: if this process is killed, the next one records them."""
        self._journal.start(begun)

    def record(self, record: Record) -> None:
        """Store the record of a finished request; on return it survives a killed process."""
        spooled = self._spooled(record)
        if spooled or not self._has_room(self._unspooled):
            self._journal.end(record.id)
        else:
            self._unspooled.append(record)

    def add_embeddings(self, late: LateEmbeddings) -> None:
        """Store vectors that came after the record of their request, as `record` does."""
        if not self._spooled(late) and self._has_room(self._unspooled_late):
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
            if self._spooling:
                log.error("spool_failed", reason=str(error))
            self._spooling = False
            self._count("spool_failed")
            return False
        self._spooling = True
        return True

    def _has_room(self, unspooled: Sequence[Record] | Sequence[LateEmbeddings]) -> bool:
        """Whether memory may keep one more of these; if not, it is dropped and counted."""
        if len(unspooled) < MAX_UNSPOOLED:
            return True
        if not self.counts["dropped"]:
            log.error("history_dropped", kept=len(unspooled))
        self._count("dropped")
        return False

    def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] += by

    async def flush(self) -> None:
        """Insert everything recorded so far. SQLAlchemyError if Postgres does not accept it.

        Late embeddings come after all records that were there when they were.
        """
        late, entries = list(self._unspooled_late), list(self._unspooled_entries)
        unspooled = list(self._unspooled)
        for part in _parts(unspooled):
            await self._insert(part)
            del self._unspooled[: len(part)]
            for record in part:
                self._journal.end(record.id)
        self._journal.flush()  # no record is inserted whose end the journal does not have
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
        lines = await asyncio.to_thread(read_sealed, path, partial(self._count, "set_aside"))
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
                if new := set_aside(path, [line_of(record)]):
                    log.error("record_refused", request=str(record.id), reason=str(error.orig))
                    self._count("set_aside", new)

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
            for (key, embedder), vector in sorted(instructions.items())
        ]
        await session.execute(_INSERT_INSTRUCTIONS, known)


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
