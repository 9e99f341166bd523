"""Lists of finished requests, on a real database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from gateway.database.errors import Sessions
from gateway.errors import InvalidRequest
from gateway.history.listing import Place, RequestFilter, RequestList
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from models.base import new_id
from tests.conftest import Builder

ARRIVED = datetime(2026, 1, 1, tzinfo=UTC)
TENANTS = [UUID(int=number) for number in (1, 2)]


async def store(sessions: Sessions, folder: Path, records: list[Record]) -> None:
    writer = HistoryWriter(sessions, folder)
    for record in records:
        writer.record(record)
    await writer.flush()


def some_records(rng: Random, a_record: Callable[..., Record], number: int) -> list[Record]:
    """Records with many equal arrivals."""
    return [
        a_record(
            id=new_id(),
            arrived_at=ARRIVED + timedelta(seconds=rng.randint(0, number // 4)),
            tenant_id=(tenant := rng.choice(TENANTS)),
            app_id=UUID(int=10 * tenant.int + rng.randint(0, 1)),
            api_key_id=UUID(int=100 * tenant.int + rng.randint(0, 1)),
            end_user=rng.choice([None, "ursula", "victor"]),
            model=rng.choice(["model", "other"]),
            service_tier=rng.choice([None, "default", "flex", "batch"]),
            finish_reason=rng.choice(["stop", "length", "error", "cancelled", "lost"]),
            generation_tokens=rng.randint(0, 9),
            queued_s=rng.choice([None, 0.0, 1.0, 2.0]),
            response_s=3.0,
        )
        for _ in range(number)
    ]


async def all_pages(
    sessions: Sessions, wanted: RequestFilter, limit: int, **options: int
) -> list[list[UUID]]:
    """The ids of every page."""
    found, after = [], None
    while True:
        page = await RequestList(sessions, **options).read(wanted, limit=limit, after=after)
        found.append([each.id for each in page.items])
        if page.next_after is None:
            return found
        after = page.next_after


FILTERS: list[tuple[dict[str, Any], Callable[[Record], bool]]] = [
    ({}, lambda _: True),
    ({"tenant": str(TENANTS[0])}, lambda row: row.tenant_id == TENANTS[0]),
    ({"app": str(UUID(int=21))}, lambda row: row.app_id == UUID(int=21)),
    ({"key": str(UUID(int=101))}, lambda row: row.api_key_id == UUID(int=101)),
    ({"key_id": UUID(int=101)}, lambda row: row.api_key_id == UUID(int=101)),
    ({"user": "ursula"}, lambda row: row.end_user == "ursula"),
    ({"model": "other"}, lambda row: row.model == "other"),
    ({"tier": "flex"}, lambda row: row.service_tier == "flex"),
    ({"tier": "default"}, lambda row: row.service_tier in {None, "default"}),
    ({"outcome": "stop"}, lambda row: row.finish_reason == "stop"),
    ({"outcome": "error"}, lambda row: row.finish_reason == "error"),
    (
        {"since": ARRIVED + timedelta(seconds=3), "until": ARRIVED + timedelta(seconds=9)},
        lambda row: 3 <= (row.arrived_at - ARRIVED).total_seconds() < 9,
    ),
    (
        {"tenant": str(TENANTS[1]), "app": str(UUID(int=20)), "user": "victor"},
        lambda row: row.app_id == UUID(int=20) and row.end_user == "victor",
    ),
    ({"tenant": str(TENANTS[0]), "app": str(UUID(int=20))}, lambda _: False),
    ({"tenant": "a name of nothing"}, lambda _: False),
]


async def test_pages_of_every_filter_have_each_request_once_newest_first(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    records = some_records(Random(22), a_record, 120)
    await store(sessions, tmp_path, records)
    for given, matches in FILTERS:
        pages = await all_pages(sessions, RequestFilter(**given), 7)
        rows = sorted(filter(matches, records), key=lambda row: (row.arrived_at, row.id))
        assert [id_ for page in pages for id_ in page] == [row.id for row in rows][::-1], given
        assert all(len(page) == 7 for page in pages[:-1]), given


RANGES: list[tuple[dict[str, Any], Callable[[Record], bool]]] = [
    ({"least_tokens": 8}, lambda row: row.generation_tokens >= 8),
    ({"most_tokens": 0}, lambda row: row.generation_tokens == 0),
    ({"least_tokens": 99}, lambda _: False),
    (
        {"least_wait_s": 1.0, "most_wait_s": 2.0, "user": "victor"},
        lambda row: row.end_user == "victor" and row.queued_s in {1.0, 2.0},
    ),
    ({"least_wait_s": 2.5}, lambda row: row.queued_s is None),
    (
        {"tenant": str(TENANTS[0]), "most_tokens": 3},
        lambda row: row.tenant_id == TENANTS[0] and row.generation_tokens <= 3,
    ),
]


@pytest.mark.parametrize("max_scanned", [20, 40, 1_000])
async def test_pages_by_length_and_wait_have_each_request_once_however_few_are_scanned(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record], max_scanned: int
) -> None:
    records = some_records(Random(23), a_record, 120)
    await store(sessions, tmp_path, records)
    for given, matches in RANGES:
        wanted = RequestFilter(**given)
        pages = await all_pages(sessions, wanted, 7, max_scanned=max_scanned)
        rows = sorted(filter(matches, records), key=lambda row: (row.arrived_at, row.id))
        assert [id_ for page in pages for id_ in page] == [row.id for row in rows][::-1], given
        assert len(pages) >= len(records) / 5 // max_scanned, given


async def test_a_page_by_length_looks_through_a_bounded_number_of_requests(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    records = [
        a_record(
            id=new_id(), arrived_at=ARRIVED + timedelta(seconds=number), generation_tokens=number
        )
        for number in range(10)
    ]
    await store(sessions, tmp_path, records)
    shortest = RequestFilter(most_tokens=0)
    assert await all_pages(sessions, shortest, 2, max_scanned=4) == [[], [], [records[0].id]]
    assert await all_pages(sessions, shortest, 2, max_scanned=10) == [[records[0].id], []]


async def test_name_of_several_apps_lists_the_newest_of_all_and_a_tenant_narrows_it(
    sessions: Sessions, build: Builder, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    tenants = [await build.tenant(name) for name in ("acme", "umbrella")]
    apps = [await build.app(tenant, name="chat") for tenant in tenants]
    records = [
        a_record(
            id=new_id(),
            arrived_at=ARRIVED + timedelta(seconds=number),
            tenant_id=tenants[number % 2].id,
            app_id=apps[number % 2].id,
        )
        for number in range(10)
    ]
    await store(sessions, tmp_path, records)
    newest = [record.id for record in records][::-1]
    assert await all_pages(sessions, RequestFilter(app="chat"), 4) == [
        newest[:4],
        newest[4:8],
        newest[8:],
    ]
    page = await RequestList(sessions).read(
        RequestFilter(tenant="acme", app="chat"), limit=100, after=None
    )
    assert [each.id for each in page.items] == newest[1::2]
    assert {(each.tenant, each.app, each.key) for each in page.items} == {("acme", "chat", None)}


async def test_request_that_ends_between_two_pages_moves_no_other(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    records = [
        a_record(id=new_id(), arrived_at=ARRIVED + timedelta(seconds=number)) for number in range(4)
    ]
    await store(sessions, tmp_path, records)
    requests = RequestList(sessions)
    first = await requests.read(RequestFilter(), limit=2, after=None)
    await store(sessions, tmp_path, [a_record(id=new_id(), arrived_at=ARRIVED + timedelta(60))])
    second = await requests.read(RequestFilter(), limit=2, after=first.next_after)
    assert [each.id for each in second.items] == [records[1].id, records[0].id]
    assert second.next_after is None


@pytest.mark.parametrize(
    "after",
    ["", "x", "AAAA", "é" * 32, "f" * 32, "g" * 32, "0" * 33, "0" * 31],
    ids=lambda after: f"{len(after)} of {after[:1]}",
)
def test_cursor_that_no_page_gave_is_refused(after: str) -> None:
    with pytest.raises(InvalidRequest, match="after is not the next_after") as caught:
        Place.decode(after)
    assert caught.value.param == "after"


def test_cursor_keeps_the_microsecond() -> None:
    place = Place(ARRIVED + timedelta(microseconds=123_457), UUID(int=5))
    assert Place.decode(place.encode()) == place
