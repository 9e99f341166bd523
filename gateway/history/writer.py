"""Inserts history records in groups, off the request path, each once; late embeddings follow.

What was running when a gateway was killed becomes records at the next start. Entries of the audit
trail that must not wait for the database take the same way.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.database.translation import is_refused
from gateway.history.audit import SpooledEntry, add_spooled
from gateway.history.disk.backlog import MAX_SPOOL_BYTES, Backlog, Waiting, nothing
from gateway.history.disk.journal import Begun, Journal
from gateway.history.disk.journal_file import journals
from gateway.history.disk.lost import read_lost
from gateway.history.disk.spool import line_of, read_sealed, set_aside
from gateway.history.disk.thread import DiskThread
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
from gateway.history.retention import NOT_DELETED
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
REFUSED: Final = "refused"  # next to it lies what Postgres refused of the lines in memory
EVENTS: Final = ("lost", "journal_failed", "spool_failed", "set_aside", "dropped", NOT_DELETED)

# In the order of their keys, so that gateways do not lock one another out.
_INSERT_INSTRUCTIONS: Final = insert(Instruction).on_conflict_do_update(
    index_elements=["hash", "embedder"],
    set_={"used_at": func.now()},
    where=Instruction.used_at < func.now() - text("interval '1 day'"),
)

Part = TypeVar("Part")
Line = TypeVar("Line", bound=SpoolLine)

log = structlog.get_logger()


class HistoryWriter:
    """Accepts records of finished requests and inserts them in groups.

    A record stays in the backlog, which is the spool and what the disk does not take, until
    Postgres has committed it; inserting it twice has no effect, by its key.

    `counts` are of what went wrong: requests that a killed gateway had been running, failed writes
    of journal and spool, lines that were set aside, and late embeddings dropped for lack of room;
    `HistoryRetention` adds the rows that it could not delete.
    """

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        folder: Path,
        *,
        max_bytes: int = MAX_SPOOL_BYTES,
    ) -> None:
        """More than about `max_bytes` bytes of records never wait: see `full`."""
        self._sessions = sessions
        self._folder = folder
        self.counts = dict.fromkeys(EVENTS, 0)
        self._disk = DiskThread("history files")
        self._backlog = Backlog(
            folder, self._disk, partial(self._count, "spool_failed"), max_bytes=max_bytes
        )
        self._journal = Journal(folder, self._disk, partial(self._count, "journal_failed"))
        self.lost: list[Record] = []
        self._known_instructions: set[tuple[bytes, str]] = set()
        self._known_until = float("-inf")
        self._delayed = False  # the newest insertion failed
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to insert: first what an earlier process left, then new records.

        `lost` are then the requests that it was running when it was killed.
        """
        self.lost = await self._disk.run(self._take_over)
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
        await self._journal.close()
        self._backlog.close()
        self._disk.close()

    @property
    def full(self) -> bool:
        """Whether as much waits for Postgres as may: further requests could not be recorded."""
        return self._backlog.full

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait for Postgres, on disk and in memory."""
        return self._backlog.size

    @property
    def state(self) -> str:
        """`connected` if records get to disk and database in time, else what is wrong.

        `full`; `stalled` or `failing`, of the disk; `delayed`, of the database.
        """
        if self.full:
            return "full"
        return self._backlog.trouble or ("delayed" if self._delayed else "connected")

    def _take_over(self) -> list[Record]:
        """Record what a killed gateway had been running, and return it.

        Its end may be in the spool already: the kill came before the journal had it.
        """
        left = journals(self._folder)
        spool = self._backlog.spool
        lost = {record.id: record for record in read_lost(left)}
        for path in spool.seal() if lost else ():
            for line in read_sealed(path, partial(self._count, "set_aside")):
                if isinstance(line, Record):
                    lost.pop(line.id, None)
        try:
            if lost:
                spool.append([line_of(record) for record in lost.values()])
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

    def record(self, record: Record, released: Callable[[], None] = nothing) -> None:
        """Store the record of a finished request.

        `released` is called when it survives a killed process, or at the latest after `STALL_S` if
        the disk fails or stalls: then memory has it.
        """
        self._backlog.add(record, partial(self._journal.end, record.id), released)
        self._dirty.set()

    def add_embeddings(self, late: LateEmbeddings) -> None:
        """Store vectors that came after the record of their request, unless too much waits."""
        if self.full:
            self._count("dropped")
            return
        self._backlog.add(late)
        self._dirty.set()

    def add_entry(self, entry: SpooledEntry) -> None:
        """Store an entry of the audit trail."""
        self._backlog.add(entry)
        self._dirty.set()

    def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] += by

    async def flush(self) -> None:
        """Insert everything recorded so far. SQLAlchemyError if Postgres does not accept it.

        Late embeddings come after all records that were there when they were.
        """
        await self._backlog.written()
        memory = self._backlog.in_memory()
        records = [each for each in memory if isinstance(each.line, Record)]
        others = [each for each in memory if not isinstance(each.line, Record)]
        await self._insert_from_memory(records)
        self._journal.flush()  # no record is inserted whose end the journal does not have
        for path in await self._backlog.sealed():
            await self._insert_file(path)
            await self._backlog.remove(path)
        await self._insert_from_memory(others)

    async def _insert_from_memory(self, waiting: Sequence[Waiting]) -> None:
        for some in _parts(waiting):
            await self._insert_lines([each.line for each in some], self._folder / REFUSED)
            self._backlog.inserted(some)

    async def _insert_file(self, path: Path) -> None:
        lines = await self._backlog.read(path, partial(self._count, "set_aside"))
        await self._insert_lines(lines, path)

    async def _insert_lines(self, lines: Sequence[SpoolLine], path: Path) -> None:
        """Insert lines; those that Postgres refuses are set aside next to this file."""
        entries = [line for line in lines if isinstance(line, SpooledEntry)]
        records, late = merged(line for line in lines if not isinstance(line, SpooledEntry))
        await self._insert_parts(entries, self._add_entries, path)
        await self._insert_parts(records, self._insert, path)
        await self._insert_parts(late, self._add_embeddings, path)

    async def _insert_parts(
        self,
        lines: Sequence[Line],
        insert: Callable[[Sequence[Line]], Awaitable[None]],
        path: Path,
    ) -> None:
        """Insert lines in parts; a part that Postgres refuses line by line."""
        for part in _parts(lines):
            try:
                await insert(part)
            except SQLAlchemyError as error:
                if not is_refused(error):
                    raise
                for line in part:
                    await self._insert_alone(line, insert, path)

    async def _insert_alone(
        self, line: Line, insert: Callable[[Sequence[Line]], Awaitable[None]], path: Path
    ) -> None:
        """Insert a line, or set it aside."""
        try:
            await insert([line])
        except SQLAlchemyError as error:
            if not is_refused(error):
                raise
            if new := await asyncio.to_thread(set_aside, path, [line_of(line)]):
                log.error("record_refused", id=str(line.id), reason=str(error))
                self._count("set_aside", new)

    async def _run(self) -> None:
        backoff = FLUSH_INTERVAL_S
        while True:
            await self._dirty.wait()
            await asyncio.sleep(backoff)
            self._dirty.clear()
            try:
                await self.flush()
                backoff, self._delayed = FLUSH_INTERVAL_S, False
            except Exception as error:  # noqa: BLE001  later records must be inserted
                self._delayed = True
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


def _parts(lines: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """Of at most `MAX_ROWS`."""
    return (lines[start : start + MAX_ROWS] for start in range(0, len(lines), MAX_ROWS))


def _row(record: Record) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    del row["instruction_embedding"]
    return row | {"hard": record.hard}
