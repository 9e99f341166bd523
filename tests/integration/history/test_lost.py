"""What a killed gateway was running becomes one row each, and is counted as delivered."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

from sqlalchemy import select

from gateway.database.errors import Sessions
from gateway.history.disk.journal_file import journals
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.usage.request import RequestUsages
from models import RequestRecord, UsageDay
from models.base import new_id

TENANT = UUID(int=1)


def an_answer(delivered_tokens: int) -> SimpleNamespace:
    return SimpleNamespace(delivered_tokens=delivered_tokens, cached_tokens=None)


async def rows(sessions: Sessions) -> dict[UUID, tuple[str, int, bool]]:
    async with sessions() as session:
        found = await session.scalars(select(RequestRecord))
        return {row.id: (row.finish_reason, row.generation_tokens, row.censored) for row in found}


async def kill(writer: HistoryWriter) -> None:
    """Its process does nothing any more."""
    journal = writer._journal
    if journal._timer is not None:
        journal._timer.cancel()
    await writer._disk.run(partial(journal._file.close, remove=False))
    await writer._disk.run(writer._backlog.spool.seal)


async def next_start(sessions: Sessions, folder: Path) -> HistoryWriter:
    writer = HistoryWriter(sessions, folder)
    await writer.start()
    await writer.close()
    return writer


async def test_open_requests_become_rows_once_and_what_ended_keeps_its_record(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    killed = HistoryWriter(sessions, tmp_path)
    cut, inserted, spooled = (a_record(id=new_id()) for _ in range(3))
    killed.note_starts([(each, an_answer(5)) for each in (cut, inserted, spooled)])
    killed._journal.flush()
    killed.record(inserted)
    await killed.flush()
    killed.record(spooled)  # the journal may not have its end yet
    await killed._backlog.written()
    await kill(killed)
    for _ in range(2):
        writer = await next_start(sessions, tmp_path)
        assert await rows(sessions) == {
            cut.id: ("lost", 5, True),
            inserted.id: ("stop", 12, False),
            spooled.id: ("stop", 12, False),
        }
        assert journals(tmp_path) == []
        assert [record.id for record in writer.lost] == [cut.id] * writer.counts["lost"]
    assert writer.counts["lost"] == 0


async def test_kill_in_the_middle_of_the_next_start_doubles_no_row(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    killed, record = HistoryWriter(sessions, tmp_path), a_record()
    killed.note_starts([(record, an_answer(5))])
    killed._journal.flush()
    await kill(killed)
    (path,) = journals(tmp_path)
    left = path.read_bytes()
    again = HistoryWriter(sessions, tmp_path)
    again._take_over()
    again._backlog.spool.seal()
    path.write_bytes(left)  # it was killed before it removed the file
    await next_start(sessions, tmp_path)
    assert await rows(sessions) == {record.id: ("lost", 5, True)}


async def test_lost_request_counts_as_delivered_and_without_a_token_as_nothing(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    lost = {"finish_reason": "lost", "censored": True, "prompt_tokens": 100}
    sent, unsent = (a_record(id=new_id(), generation_tokens=tokens, **lost) for tokens in (7, 0))
    writer = HistoryWriter(sessions, tmp_path)
    for record in (sent, unsent):
        writer.record(record)
    await writer.flush()
    async with sessions() as session:
        (day,) = await session.scalars(select(UsageDay))
    assert (day.requests, day.failed, day.prompt_tokens, day.generation_tokens) == (2, 1, 100, 7)
    usages = RequestUsages(sessions)
    found = [await usages.find(record.id, TENANT) for record in (sent, unsent)]
    assert [(each.prompt_tokens, each.generation_tokens) for each in found] == [(100, 7), (0, 0)]
