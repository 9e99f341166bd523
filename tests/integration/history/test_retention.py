"""What is too old is deleted from history, on a real database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from gateway.database.errors import Sessions
from gateway.history import retention
from gateway.history.record import Record
from gateway.history.retention import LOCK_KEY, HistoryRetention
from gateway.history.writer import HistoryWriter
from models import RequestRecord, UsageDay
from models.base import new_id


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
    assert await HistoryRetention(sessions, 10.0).sweep() == len(old)
    assert await kept(sessions) == {record.id for record in new}
    async with sessions() as session:
        used = await session.scalar(select(func.sum(UsageDay.requests)))
    assert used == len(old + new)
    assert await HistoryRetention(sessions, 10.0).sweep() == 0


async def test_one_gateway_deletes_at_a_time(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    record = a_record(id=new_id(), arrived_at=datetime.now(UTC) - timedelta(days=2))
    await store(sessions, tmp_path, [record])
    async with sessions.begin() as other:
        await other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        assert await HistoryRetention(sessions, 1.0).sweep() == 0
    assert await HistoryRetention(sessions, 1.0).sweep() == 1
    assert await kept(sessions) == set()
