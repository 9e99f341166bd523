"""Single requests of history, on a real database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from gateway.database.errors import Sessions
from gateway.errors import NotFound
from gateway.history.record import Record
from gateway.history.requests import OvertakingCounts, RequestHistory, made_at
from gateway.history.writer import HistoryWriter
from models import RequestRecord
from models.base import new_id

CAME = datetime(2026, 1, 1, tzinfo=UTC)


async def store(sessions: Sessions, folder: Path, *records: Record) -> None:
    writer = HistoryWriter(sessions, folder)
    for record in records:
        writer.record(record)
    await writer.flush()


def test_id_tells_when_it_was_made() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    assert before <= made_at(new_id()) <= datetime.now(UTC) + timedelta(milliseconds=2)


async def test_request_is_found_by_its_id_with_all_that_was_recorded(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    given = {
        "service_tier": "flex",
        "deadline_s": 2.0,
        "policy_order": "arrival",
        "queue_ahead": 4,
        "passed_by": 2,
        "expected_start_s": 0.5,
        "expected_finish_s": 1.5,
        "response_ratio": 1.75,
        "overdue": True,
        "kv_free_pages": 12,
        "gave_up": "deadline",
    }
    records = [a_record(**given), a_record(), a_record()]
    await store(sessions, tmp_path, *records)
    found = await RequestHistory(sessions).find(records[0].id)
    assert found.id == records[0].id
    assert {name: getattr(found, name) for name in given} == given


async def test_request_that_took_long_to_get_its_id_is_found(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    record = a_record(arrived_at=datetime.now(UTC) - timedelta(seconds=50))
    await store(sessions, tmp_path, record)
    assert (await RequestHistory(sessions).find(record.id)).id == record.id


@pytest.mark.parametrize("request_id", [new_id(), uuid4(), UUID(int=0)])
async def test_id_of_nothing_is_not_found(sessions: Sessions, request_id: UUID) -> None:
    with pytest.raises(NotFound, match=f"there is no request {request_id}"):
        await RequestHistory(sessions).find(request_id)


HERE = UUID(int=7)


async def test_who_overtook_a_request_is_counted_by_why(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    def came(after_s: float, waited_s: float | None, **fields: object) -> Record:
        known = {
            "gateway_id": HERE,
            "batch_id": "a-2",
            "quantiles": [50.0] * 6,
            "service_tier": "default",
        }
        at = CAME + timedelta(seconds=after_s)
        return a_record(
            arrived_at=at, queued_s=waited_s, **{"quantiles": [50.0] * 6, **known, **fields}
        )

    slow = came(0.0, 10.0, batch_id="a-1")
    await store(
        sessions,
        tmp_path,
        slow,
        came(1.0, 1.0, service_tier="priority", tenant_id=UUID(int=9)),
        came(2.0, 1.0, tenant_id=UUID(int=9)),
        came(3.0, 1.0, quantiles=[5.0] * 6),
        came(4.0, 1.0, quantiles=[5.0] * 6, service_tier=None),
        came(5.0, 1.0),
        came(6.0, 5.0, quantiles=[5.0] * 6),  # started later
        came(-1.0, 1.0, quantiles=[5.0] * 6),  # came earlier
        came(
            7.0, 1.0, quantiles=[5.0] * 6, gateway_id=UUID(int=8), batch_id="b-7"
        ),  # on another gateway
        came(7.5, 2.4999, quantiles=[5.0] * 6, batch_id="a-1"),  # started with it
        came(8.0, None, quantiles=[5.0] * 6, batch_id=None),  # never started
    )
    history = RequestHistory(sessions)
    row = await history.count_overtaking(await _row(sessions, slow.id), ["priority"])
    assert row == OvertakingCounts(urgent=1, other_tenant=1, shorter=2, other=1)
    assert row.total == 5


async def _row(sessions: Sessions, request_id: UUID) -> RequestRecord:
    async with sessions() as session:
        found = await session.scalar(select(RequestRecord).where(RequestRecord.id == request_id))
    assert found is not None
    return found
