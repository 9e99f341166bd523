"""What a journal leaves to the next gateway, wherever its own was killed."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.history.disk import journal as journal_module
from gateway.history.disk import thread
from gateway.history.disk.journal import Journal
from gateway.history.disk.journal_file import journals
from gateway.history.disk.lost import read_lost
from gateway.history.disk.thread import DiskThread
from gateway.history.record import Record
from models.base import new_id

EVENTS = st.lists(st.sampled_from(["start", "deliver", "end", "flush", "compact"]), max_size=40)


class Journalled:
    """A journal, its thread, and the number of its failed writes."""

    def __init__(self, folder: Path) -> None:
        self.failed = 0
        self.disk = DiskThread("a journal")
        self.journal = Journal(folder, self.disk, self._count)

    async def written(self) -> None:
        """All that was given to the thread is done, and followed up."""
        await self.disk.run(lambda: None)

    def _count(self) -> None:
        self.failed += 1


def an_answer(delivered_tokens: int = 0) -> SimpleNamespace:
    return SimpleNamespace(delivered_tokens=delivered_tokens, cached_tokens=None)


def lost(folder: Path) -> dict[UUID, int]:
    """The tokens delivered of each lost request."""
    return {record.id: record.generation_tokens for record in read_lost(journals(folder))}


class Traffic:
    """Random requests, and the oracle: what of them must be found."""

    def __init__(self, folder: Path, a_record: Callable[..., Record], seed: int) -> None:
        self.scene = Journalled(folder)
        self.journal = self.scene.journal
        self.answers: dict[UUID, SimpleNamespace] = {}
        self.open: list[UUID] = []
        self.flushed: dict[UUID, int] = {}
        self._a_record = a_record
        self._rng = random.Random(seed)

    def start(self) -> None:
        record = self._a_record(generation_tokens=0, finish_reason="unfinished")
        self.answers[record.id] = an_answer()
        self.open.append(record.id)
        self.journal.start([(record, self.answers[record.id])])

    def deliver(self) -> None:
        if self.open:
            chosen = self._rng.choice(self.open)
            self.answers[chosen].delivered_tokens += self._rng.randint(1, 9)

    def end(self) -> None:
        if self.open:
            self.journal.end(self.open.pop(self._rng.randrange(len(self.open))))

    def flush(self) -> None:
        self.journal.flush()
        self.flushed = self.delivered()

    def compact(self) -> None:
        self.flush()
        self.journal._compact()

    def delivered(self) -> dict[UUID, int]:
        return {each: self.answers[each].delivered_tokens for each in self.open}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(events=EVENTS, seed=st.integers(), cut=st.integers(0, 10_000))
def test_what_is_open_is_lost_with_what_was_flushed_wherever_the_file_is_cut(
    a_record: Callable[..., Record], events: list[str], seed: int, cut: int
) -> None:
    async def scene(folder: Path) -> None:
        traffic = Traffic(folder, a_record, seed)
        for event in events:
            getattr(traffic, event)()
        await traffic.scene.written()
        found = lost(folder)
        for each in traffic.open:
            assert found[each] == traffic.flushed.get(each, 0)
        traffic.flush()
        await traffic.scene.written()
        assert lost(folder) == traffic.delivered()
        await traffic.journal.close()
        for path in journals(folder):
            path.write_bytes(path.read_bytes()[: cut % (path.stat().st_size + 1)])
        for each, tokens in lost(folder).items():
            assert tokens <= traffic.answers[each].delivered_tokens

    with TemporaryDirectory() as folder:
        asyncio.run(scene(Path(folder)))


async def test_lost_record_is_censored_and_lasts_until_the_last_line(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    scene = Journalled(tmp_path)
    journal = scene.journal
    record, answer = a_record(generation_tokens=0, response_s=0.0), an_answer(7)
    answer.cached_tokens = 16
    journal.start([(record, answer)])
    journal.flush()
    await scene.written()
    (found,) = read_lost(journals(tmp_path))
    assert (found.id, found.finish_reason, found.censored) == (record.id, "lost", True)
    assert (found.generation_tokens, found.cached_tokens) == (7, 16)
    assert 0 <= found.response_s < 3600
    await journal.close()


async def test_long_life_takes_bounded_space(
    tmp_path: Path, a_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MIN_BYTES", 20_000)
    scene = Journalled(tmp_path)
    journal = scene.journal
    long = a_record()
    journal.start([(long, an_answer(3))])
    for _ in range(500):
        record = a_record()
        journal.start([(record, an_answer())])
        journal.end(record.id)
        journal.flush()
        await scene.written()
        assert sum(path.stat().st_size for path in journals(tmp_path)) < 30_000
    assert lost(tmp_path) == {long.id: 3}
    journal.end(long.id)
    await journal.close()
    assert list(tmp_path.iterdir()) == []


async def test_full_disk_stops_no_request_and_is_made_up_for(
    tmp_path: Path, a_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.0)
    scene, record = Journalled(tmp_path), a_record()
    for number in (1, 2):  # the files that it will open
        (tmp_path / f"{number:012d}.journal").symlink_to("/dev/full")
    scene.journal.start([(record, an_answer(5))])
    await scene.written()
    assert scene.failed == 1
    for failed in (2, 2):
        scene.journal.flush()
        await scene.written()
        assert scene.failed == failed
    assert lost(tmp_path) == {record.id: 5}
    await scene.journal.close()


async def test_disk_that_stalls_holds_up_no_start_and_is_made_up_for(
    tmp_path: Path, a_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.0)
    monkeypatch.setattr(thread, "STALL_S", 0.0)
    scene = Journalled(tmp_path)
    stalling = tmp_path / "000000000001.journal"
    os.mkfifo(stalling)  # it cannot be opened before somebody reads it
    records = [a_record(id=new_id()) for _ in range(3)]
    for record in records:
        scene.journal.start([(record, an_answer(5))])
        while not scene.disk.stalls:
            await asyncio.sleep(0.001)
    assert scene.failed == 1
    with stalling.open("rb"):
        await scene.written()
    stalling.unlink()
    scene.journal.flush()
    await scene.written()
    assert lost(tmp_path) == {record.id: 5 for record in records}
    await scene.journal.close()
