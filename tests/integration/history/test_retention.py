"""What is too old is deleted from history, on a real database."""

import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from gateway.database.errors import Sessions
from gateway.history import retention
from gateway.history.audit import AuditTrail, SpooledEntry
from gateway.history.record import Record
from gateway.history.retention import LOCK_KEY, HistoryRetention, Kept
from gateway.history.writer import HistoryWriter
from gateway.tenancy.tenants import Tenants
from models import AuditEntry, Instruction, RequestRecord, UsageDay
from models.base import new_id
from tests.integration.damage import damaged


async def store(sessions: Sessions, folder: Path, records: list[Record]) -> None:
    writer = HistoryWriter(sessions, folder)
    for record in records:
        writer.record(record)
    await writer.flush()


async def kept(sessions: Sessions) -> set[object]:
    async with sessions() as session:
        return {*await session.scalars(select(RequestRecord.id))}


async def test_old_rows_go_in_portions_and_their_usage_stays(
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of equal arrivals too, more than fit into a portion."""
    monkeypatch.setattr(retention, "PORTION_ROWS", 3)
    now = datetime.now(UTC)
    old = [a_record(id=new_id(), arrived_at=now - timedelta(days=11)) for _ in range(7)]
    old += [a_record(id=new_id(), arrived_at=now - timedelta(days=10, hours=n)) for n in (1, 2)]
    new = [a_record(id=new_id(), arrived_at=now - timedelta(days=9, hours=n)) for n in (22, 23)]
    await store(sessions, tmp_path, old + new)
    assert await HistoryRetention(sessions, Kept(history=10.0)).sweep() == len(old)
    assert await kept(sessions) == {record.id for record in new}
    async with sessions() as session:
        used = await session.scalar(select(func.sum(UsageDay.requests)))
    assert used == len(old + new)
    assert await HistoryRetention(sessions, Kept(history=10.0)).sweep() == 0


async def test_one_gateway_deletes_at_a_time(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    record = a_record(id=new_id(), arrived_at=datetime.now(UTC) - timedelta(days=2))
    await store(sessions, tmp_path, [record])
    async with sessions.begin() as other:
        await other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        assert await HistoryRetention(sessions, Kept(history=1.0)).sweep() == 0
    assert await HistoryRetention(sessions, Kept(history=1.0)).sweep() == 1
    assert await kept(sessions) == set()


async def test_unused_instructions_old_entries_and_old_files_go_and_new_ones_stay(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    old, used, trail = b"old", b"used", AuditTrail(sessions)
    vectors = {"instruction_embedding": b"v", "embedder": "e", "features": b"f"}
    tenant = await Tenants(sessions).create("acme", by="admin")
    for digest in (old, used):
        record = a_record(id=new_id(), tenant_id=tenant.id, instruction_hash=digest, **vectors)
        await store(sessions, tmp_path, [record])
    async with sessions.begin() as session:
        await session.execute(text("UPDATE instructions SET used_at = now() - interval '9 days'"))
    again = a_record(id=new_id(), tenant_id=tenant.id, instruction_hash=used, **vectors)
    await store(sessions, tmp_path, [again])
    entry = SpooledEntry.of("admin", "engine.paused", "a gateway")
    aged = replace(entry, id=UUID(int=entry.id.int - (8 * 86_400_000 << 80)))
    writer = HistoryWriter(sessions, tmp_path)
    for each in (entry, aged):
        writer.add_entry(each)
    await writer.flush()
    for name, days in (("1.aside", 8), ("2.aside", 6)):
        (tmp_path / name).write_bytes(b"{}")
        then = datetime.now(UTC).timestamp() - 86_400 * days
        os.utime(tmp_path / name, (then, then))
    week = HistoryRetention(sessions, Kept(history=7, audit=7, set_aside=7), tmp_path)
    gone = {"instructions": 1, "audit_entries": 1, "files_set_aside": 1}
    assert await week.sweep_others() == gone
    assert await week.sweep_others() == dict.fromkeys(gone, 0)
    async with sessions() as session:
        assert [*await session.scalars(select(Instruction.hash))] == [used]
        assert aged.id not in {*await session.scalars(select(AuditEntry.id))}
    assert entry.id in {each.id for each in await trail.list(10)}
    assert [path.name for path in tmp_path.iterdir()] == ["2.aside"]


async def test_row_that_cannot_be_deleted_is_counted_and_holds_up_no_other(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    """All have arrived at the same time: their order is by their place."""
    arrived_at = datetime.now(UTC) - timedelta(days=2)
    records = [a_record(id=new_id(), arrived_at=arrived_at) for _ in range(20)]
    await store(sessions, tmp_path, records)
    poison = records[7].id
    counts = Counter[str]()
    day = HistoryRetention(sessions, Kept(history=1.0), counts=counts)
    async with damaged(sessions, "DELETE", "requests", f"OLD.id = '{poison}'"):
        with capture_logs() as logs:
            assert await day.sweep() == 19
        assert await kept(sessions) == {poison}
    assert counts == {"not_deleted": 1}
    assert [(entry["table"], entry["row"]) for entry in logs] == [("requests", str(poison))]
    assert await day.sweep() == 1


async def test_table_that_cannot_be_deleted_from_ends_the_turn_with_its_error(
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "MAX_LEFT", 2)
    arrived_at = datetime.now(UTC) - timedelta(days=2)
    await store(sessions, tmp_path, [a_record(id=new_id(), arrived_at=arrived_at) for _ in "abcd"])
    counts = Counter[str]()
    day = HistoryRetention(sessions, Kept(history=1.0), counts=counts)
    async with damaged(sessions, "DELETE", "requests", "TRUE"):
        with pytest.raises(DBAPIError, match="damaged"):
            await day.sweep()
    assert counts == {"not_deleted": 3}
    assert len(await kept(sessions)) == 4
