import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.history import writer as history_writer
from gateway.history.audit import AuditTrail, SpooledEntry
from gateway.history.disk.spool import line_of
from gateway.history.record import Record
from gateway.history.writer import CLOSE_S, MAX_ROWS, HistoryWriter
from models import Instruction, RequestRecord
from tests.conftest import PATIENCE_S
from tests.hanging_postgres import HangingPostgres
from tests.integration.damage import damaged
from tests.integration.query_count import counted

MARGIN_S = 10.0  # for a busy machine; a statement that hangs takes for ever


async def rows(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(RequestRecord)) or 0


async def test_row_equals_the_record(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    record = a_record(
        end_user='ursula "\\x41" ü',
        quantiles=[0.1 + 0.2, 1 / 3, 1.5, 1e-300, 1e300, 7.0],
        generation_tokens=321,
        embedding=b"\x00\x3c",
        features=bytes(range(256)),
        embedder="e",
        gateway_id=UUID(int=9),
        overdue=True,
        response_ratio=2 / 3,
    )
    writer.record(record)
    await writer.flush()
    async with sessions() as session:
        row = await session.scalar(select(RequestRecord))
    assert row is not None
    row_values = {
        name: getattr(row, name) for name in record.__struct_fields__ if hasattr(row, name)
    }
    assert row_values == {name: getattr(record, name) for name in row_values}
    assert row_values["embedding"] == b"\x00\x3c"


async def test_clean_stop_leaves_nothing_behind(
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history_writer, "CLOSE_S", PATIENCE_S)
    writer = HistoryWriter(sessions, tmp_path)
    await writer.start()
    for _ in range(10 * MAX_ROWS):
        writer.record(a_record())
    await writer.close()
    assert await rows(sessions) == 10 * MAX_ROWS
    assert list(tmp_path.iterdir()) == []


async def test_backlog_is_inserted_in_small_transactions(
    database: Database, sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    """The event loop goes on between them."""
    writer = HistoryWriter(sessions, tmp_path)
    for _ in range(5 * MAX_ROWS):
        writer.record(a_record())
    with counted(database) as statements:
        await writer.flush()
    assert sum(each.startswith("INSERT INTO requests") for each in statements) == 5
    assert await rows(sessions) == 5 * MAX_ROWS


async def test_record_is_stored_once_however_often_it_is_inserted(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    record = a_record()
    for _ in range(2):
        writer.record(record)
        await writer.flush()
    assert await rows(sessions) == 1


async def test_next_start_inserts_records_of_a_killed_process(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    dead = HistoryWriter(sessions, tmp_path)
    dead.record(a_record())  # never flushed
    await dead._backlog.written()
    writer = HistoryWriter(sessions, tmp_path)
    await writer.start()
    await writer.close()
    assert await rows(sessions) == 1
    await dead.close()


async def test_lost_database_delays_history_and_loses_no_record(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    nowhere = create_async_engine(f"postgresql+psycopg://postgres@/postgres?host={tmp_path}")
    cut_off = HistoryWriter(async_sessionmaker(nowhere), tmp_path)
    cut_off.record(a_record())
    with pytest.raises(SQLAlchemyError):
        await cut_off.flush()
    await cut_off.close()
    await HistoryWriter(sessions, tmp_path).flush()
    assert await rows(sessions) == 1


async def test_record_that_postgres_refuses_is_set_aside_and_holds_up_no_other(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    writer.record(a_record())
    writer.record(a_record(end_user="a\x00b"))
    writer.record(a_record())
    await writer.flush()
    assert await rows(sessions) == 2
    (aside,) = tmp_path.iterdir()
    assert aside.suffix == ".aside"
    assert aside.read_text().count("\n") == 1


async def test_audit_entry_that_postgres_refuses_is_set_aside_and_holds_up_no_other(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    for actor in ("olga", "a\x00b", "ivan"):
        writer.add_entry(SpooledEntry.of(actor, "engine.paused", "engine"))
    writer.record(a_record())
    await writer.flush()
    assert {entry.actor for entry in await AuditTrail(sessions).list(9)} == {"olga", "ivan"}
    assert await rows(sessions) == 1
    (aside,) = tmp_path.iterdir()
    assert aside.read_text().count("\n") == 1
    assert writer.counts["set_aside"] == 1


async def test_record_for_which_the_database_is_damaged_is_set_aside(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer, damage = HistoryWriter(sessions, tmp_path), a_record()
    for record in (a_record(), damage, a_record()):
        writer.record(record)
    async with damaged(sessions, "INSERT", "requests", f"NEW.id = '{damage.id}'"):
        await writer.flush()
    assert await rows(sessions) == 2
    (aside,) = tmp_path.iterdir()
    assert aside.suffix == ".aside"


async def test_damaged_line_of_a_journal_hinders_no_start(
    sessions: Sessions, tmp_path: Path
) -> None:
    (tmp_path / "000000000001.journal").write_bytes(b'{"kind": "\xff\xfe"}\n')
    (tmp_path / "old one.journal").write_bytes(b"not ours")
    writer = HistoryWriter(sessions, tmp_path)
    await writer.start()
    assert writer.lost == []
    await writer.close()


async def test_instruction_is_kept_once_per_embedder(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    one = {"instruction_hash": b"h", "instruction_embedding": b"e", "embedder": "first"}
    for _ in range(3):
        writer.record(a_record(**one))
    await writer.flush()
    writer.record(a_record(**one))
    writer.record(a_record(**one | {"instruction_embedding": b"f", "embedder": "second"}))
    await writer.flush()
    async with sessions() as session:
        kept = (await session.scalars(select(Instruction).order_by(Instruction.embedder))).all()
    assert [(row.hash, row.embedder, row.embedding) for row in kept] == [
        (b"h", "first", b"e"),
        (b"h", "second", b"f"),
    ]


async def test_full_disk_keeps_records_in_memory_until_they_are_stored(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    folder = tmp_path / "spool"
    writer = HistoryWriter(sessions, folder)
    folder.rmdir()
    folder.write_text("no folder: every append fails")
    writer.record(a_record())
    await writer._backlog.written()
    folder.unlink()
    folder.mkdir()
    await writer.flush()
    assert await rows(sessions) == 1


async def test_stop_while_the_database_hangs_keeps_the_records_for_the_next_start(
    hanging: HangingPostgres,
    hanging_database: Database,
    tmp_path: Path,
    a_record: Callable[..., Record],
) -> None:
    first = HistoryWriter(hanging_database.sessions, tmp_path)
    await first.start()
    hanging.suspend()
    first.record(a_record())
    began = time.monotonic()
    await first.close()
    assert time.monotonic() - began < CLOSE_S + MARGIN_S
    assert list(tmp_path.glob("*.jsonl"))
    hanging.resume()
    second = HistoryWriter(hanging_database.sessions, tmp_path)
    await second.start()
    await second.close()
    assert await rows(hanging_database.sessions) == 1
    assert list(tmp_path.iterdir()) == []


async def test_audit_entry_of_a_killed_process_is_in_the_trail_once(
    sessions: Sessions, tmp_path: Path
) -> None:
    entry = SpooledEntry.of("olga", "engine.paused", "a gateway", after={"paused": True})
    (tmp_path / "1.jsonl").write_bytes(2 * line_of(entry))
    for _ in range(2):
        writer = HistoryWriter(sessions, tmp_path)
        writer.add_entry(entry)
        await writer.flush()
    (kept,) = await AuditTrail(sessions).list(10)
    assert (kept.id, kept.at, kept.actor, kept.action) == (
        *(entry.id, entry.at),
        *("olga", "engine.paused"),
    )
    assert (kept.subject, kept.before, kept.after) == ("a gateway", None, {"paused": True})
