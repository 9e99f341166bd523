"""Records that wait: for a disk that stalls or is full, and for a database that is away."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.history.disk import backlog, thread
from gateway.history.disk.spool import line_of
from gateway.history.late_embeddings import LateEmbeddings
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from models import RequestRecord
from models.base import new_id
from tests.conftest import PATIENCE_S
from tests.hanging_postgres import HangingPostgres


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def stored(sessions: Sessions) -> set[UUID]:
    async with sessions() as session:
        return {*await session.scalars(select(RequestRecord.id))}


@pytest.fixture
async def writer(sessions: Sessions, tmp_path: Path) -> AsyncIterator[HistoryWriter]:
    made = HistoryWriter(sessions, tmp_path)
    yield made
    await made.close()


async def test_clients_wait_for_the_disk_and_no_longer(
    writer: HistoryWriter,
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop goes on; what the disk does not take is inserted from memory, once."""
    monkeypatch.setattr(backlog, "STALL_S", 0.05)
    monkeypatch.setattr(thread, "STALL_S", 0.05)
    stalling = tmp_path / "000000000001.jsonl"
    os.mkfifo(stalling)  # it cannot be opened before somebody reads it
    records, released = [a_record(id=new_id()) for _ in range(3)], list[UUID]()
    writer.record(records[0], lambda: released.append(records[0].id))
    assert released == []
    await until(lambda: released)
    assert writer.state == "stalled"
    for record in records[1:]:
        writer.record(record, lambda given=record.id: released.append(given))  # type: ignore[misc]
    assert released[-2:] == [record.id for record in records[1:]]
    await writer.flush()
    assert await stored(sessions) == {record.id for record in records}
    with stalling.open("rb"):
        await writer._backlog.written()
        await until(lambda: writer.state == "connected")
    stalling.unlink()
    another = a_record(id=new_id())
    writer.record(another)
    await writer.flush()
    assert len(await stored(sessions)) == 4
    assert writer.waiting_bytes == 0


async def test_client_sees_its_end_when_the_record_survives_a_kill(
    writer: HistoryWriter, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    record, on_disk = a_record(), list[bytes]()
    writer.record(
        record, lambda: on_disk.append(b"".join(p.read_bytes() for p in tmp_path.glob("*.jsonl")))
    )
    assert on_disk == []
    await until(lambda: on_disk)
    assert on_disk == [line_of(record)]


async def test_full_disk_drops_no_record_and_lets_no_client_wait(
    writer: HistoryWriter,
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "MAX_MEMORY_BYTES", 5_000)
    full = tmp_path / "000000000001.jsonl"
    full.symlink_to("/dev/full")
    records, released = [a_record(id=new_id()) for _ in range(9)], list[UUID]()
    with capture_logs() as logs:
        for record in records:
            writer.record(record, lambda given=record.id: released.append(given))  # type: ignore[misc]
            await writer._backlog.written()
    assert set(released) == {record.id for record in records}
    assert [each["event"] for each in logs] == ["spool_failed", "history_full"]
    assert writer.counts["spool_failed"] >= 1
    assert (writer.full, writer.state) == (True, "full")
    writer.add_embeddings(
        LateEmbeddings(
            arrived_at=records[0].arrived_at,
            id=records[0].id,
            embedder="e",
            text=b"12",
            instruction=None,
            user_input=None,
        )
    )
    assert writer.counts["dropped"] == 1
    full.unlink()
    await writer.flush()
    assert await stored(sessions) == {record.id for record in records}
    assert not writer.full


async def test_disk_that_has_space_again_takes_what_waits_in_memory(
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database is away meanwhile: the next start finds everything in the spool."""
    monkeypatch.setattr(backlog, "RETRY_S", 0.01)
    cut_off = HistoryWriter(sessions, tmp_path)
    full = tmp_path / "000000000001.jsonl"
    full.symlink_to("/dev/full")
    records = [a_record(id=new_id()) for _ in range(3)]
    for record in records:
        cut_off.record(record)
    await until(lambda: cut_off.state == "failing")
    full.unlink()
    await until(lambda: cut_off.state == "connected")
    after = HistoryWriter(sessions, tmp_path)
    await after.start()
    await after.close()
    assert await stored(sessions) == {record.id for record in records}
    await cut_off.close()


async def test_spool_is_bounded_while_postgres_is_stopped_and_loses_nothing(
    hanging: HangingPostgres,
    hanging_database: Database,
    tmp_path: Path,
    a_record: Callable[..., Record],
) -> None:
    most = 100_000
    writer = HistoryWriter(hanging_database.sessions, tmp_path, max_bytes=most)
    await writer.start()
    hanging.kill()
    records = list[Record]()
    async with asyncio.timeout(PATIENCE_S):
        while not writer.full:
            records.append(a_record(id=new_id()))
            writer.record(records[-1])
            await writer._backlog.written()
    assert most <= writer.waiting_bytes < most + len(line_of(records[-1]))
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
    assert on_disk == writer.waiting_bytes
    running = a_record(id=new_id())  # it was accepted before
    writer.record(running)
    hanging.recover()
    await until(lambda: not writer.waiting_bytes)
    assert (writer.full, writer.state) == (False, "connected")
    assert await stored(hanging_database.sessions) == {each.id for each in [*records, running]}
    await writer.close()
