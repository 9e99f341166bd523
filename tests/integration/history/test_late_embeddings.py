"""Embeddings that came after the record of their request are added to its row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select

from gateway.database.errors import Sessions
from gateway.history.late_embeddings import LateEmbeddings
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.tenancy.tenants import Tenants
from models import Instruction, RequestRecord, UsageDay
from tests.conftest import Builder

TEXT, SENTENCE, INSTRUCTION = b"\x01\x3c", b"\x02\x3c", b"\x03\x3c"


@dataclass
class History:
    """A writer, and the rows that it wrote."""

    writer: HistoryWriter
    sessions: Sessions
    folder: Path

    async def kept(self, record: Record) -> tuple[bytes | None, bytes | None, str | None]:
        """Text vector, sentence embedding and embedder of a record's row."""
        async with self.sessions() as session:
            row = await session.get(RequestRecord, (record.arrived_at, record.id))
        assert row is not None
        return row.embedding, row.input_embedding, row.embedder

    async def instructions(self) -> list[tuple[bytes, bytes]]:
        async with self.sessions() as session:
            rows = await session.scalars(select(Instruction).order_by(Instruction.hash))
            return [(row.hash, row.embedding) for row in rows]


@pytest.fixture
def history(sessions: Sessions, tmp_path: Path) -> History:
    folder = tmp_path / "spool"
    return History(HistoryWriter(sessions, folder), sessions, folder)


@pytest.fixture
async def ended(build: Builder, a_record: Callable[..., Record]) -> Record:
    """The record of a request whose embeddings are late."""
    tenant = await build.tenant()
    return a_record(tenant_id=tenant.id, end_user="ursula", features=b"f")


def late(record: Record) -> LateEmbeddings:
    return LateEmbeddings(
        arrived_at=record.arrived_at,
        id=record.id,
        embedder="e",
        text=TEXT,
        instruction=INSTRUCTION,
        user_input=SENTENCE,
    )


@pytest.mark.parametrize("flushed_between", [False, True])
async def test_late_embeddings_are_in_the_row_and_usage_counts_it_once(
    history: History, ended: Record, flushed_between: bool
) -> None:
    history.writer.record(ended)
    if flushed_between:
        await history.writer.flush()
        assert await history.kept(ended) == (None, None, None)
    history.writer.add_embeddings(late(ended))
    await history.writer.flush()
    assert await history.kept(ended) == (TEXT, SENTENCE, "e")
    assert await history.instructions() == [(b"hash", INSTRUCTION)]
    assert list(history.folder.iterdir()) == []
    async with history.sessions() as session:
        assert await session.scalar(select(func.sum(UsageDay.requests))) == 1


async def test_vector_that_came_in_time_stays(
    history: History, ended: Record, a_record: Callable[..., Record]
) -> None:
    in_time = a_record(tenant_id=ended.tenant_id, embedding=b"\x04\x3c", embedder="e")
    history.writer.record(in_time)
    await history.writer.flush()
    history.writer.add_embeddings(
        LateEmbeddings(
            arrived_at=in_time.arrived_at,
            id=in_time.id,
            embedder="e",
            text=None,
            instruction=None,
            user_input=SENTENCE,
        )
    )
    await history.writer.flush()
    assert await history.kept(in_time) == (b"\x04\x3c", SENTENCE, "e")
    assert await history.instructions() == []


async def test_tenant_that_opted_out_gets_none(history: History, ended: Record) -> None:
    history.writer.record(ended)
    await history.writer.flush()
    await Tenants(history.sessions).change(ended.tenant_id, learning=False, by="test")
    history.writer.add_embeddings(late(ended))
    await history.writer.flush()
    assert await history.kept(ended) == (None, None, None)
    assert await history.instructions() == []


@pytest.mark.parametrize("user", ["ursula", None])
async def test_erased_row_gets_none(history: History, ended: Record, user: str | None) -> None:
    history.writer.record(ended)
    await history.writer.flush()
    erased = await SampleErasure(history.sessions).erase(ended.tenant_id, user, by="test")
    assert erased.rows == 1
    history.writer.add_embeddings(late(ended))
    await history.writer.flush()
    assert await history.kept(ended) == (None, None, None)
    assert await history.instructions() == []


async def test_next_start_adds_those_of_a_killed_process(history: History, ended: Record) -> None:
    history.writer.record(ended)
    await history.writer.flush()
    history.writer.add_embeddings(late(ended))  # never flushed
    await history.writer._backlog.written()
    after = HistoryWriter(history.sessions, history.folder)
    await after.start()
    await after.close()
    assert await history.kept(ended) == (TEXT, SENTENCE, "e")
    await history.writer.close()


async def test_full_disk_keeps_them_in_memory_until_their_record_is_stored(
    history: History, ended: Record, a_record: Callable[..., Record]
) -> None:
    """The first record is in the spool, the second in memory, as their embeddings are."""
    second = a_record(tenant_id=ended.tenant_id)
    history.writer.record(ended)
    await history.writer._backlog.written()
    (spooled,) = history.folder.iterdir()
    history.writer._backlog.spool.seal()
    kept = spooled.read_bytes()
    spooled.unlink()
    history.folder.rmdir()
    history.folder.write_text("no folder: every append fails")
    history.writer.record(second)
    for record in (ended, second):
        history.writer.add_embeddings(late(record))
    await history.writer._backlog.written()
    history.folder.unlink()
    history.folder.mkdir()
    spooled.write_bytes(kept)
    await history.writer.flush()
    for record in (ended, second):
        assert await history.kept(record) == (TEXT, SENTENCE, "e")


async def test_many_at_once_find_their_rows(
    history: History, ended: Record, a_record: Callable[..., Record]
) -> None:
    records = [a_record(tenant_id=ended.tenant_id) for _ in range(1_100)]
    for record in records:
        history.writer.record(record)
    await history.writer.flush()
    for record in reversed(records):
        history.writer.add_embeddings(late(record))
    await history.writer.flush()
    assert await _with_embedding(history.sessions) == {record.id for record in records}


async def _with_embedding(sessions: Sessions) -> set[UUID]:
    async with sessions() as session:
        found: Iterable[UUID] = await session.scalars(
            select(RequestRecord.id).where(RequestRecord.input_embedding == SENTENCE)
        )
        return set(found)
