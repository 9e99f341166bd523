"""Single requests from history, on a real database."""

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

ARRIVED = datetime(2026, 1, 1, tzinfo=UTC)


async def store(sessions: Sessions, folder: Path, *records: Record) -> None:
    writer = HistoryWriter(sessions, folder)
    for record in records:
        writer.record(record)
    await writer.flush()


def test_id_contains_its_creation_time() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    assert before <= made_at(new_id()) <= datetime.now(UTC) + timedelta(milliseconds=2)


async def test_request_is_found_by_its_id_with_all_fields(
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


async def test_request_with_a_late_id_is_found(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    record = a_record(arrived_at=datetime.now(UTC) - timedelta(seconds=50))
    await store(sessions, tmp_path, record)
    assert (await RequestHistory(sessions).find(record.id)).id == record.id


@pytest.mark.parametrize(
    "request_id",
    [new_id(), uuid4(), UUID(int=0), UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")],
)
async def test_unknown_id_is_not_found(sessions: Sessions, request_id: UUID) -> None:
    with pytest.raises(NotFound, match=f"there is no request {request_id}"):
        await RequestHistory(sessions).find(request_id)


GATEWAY_ID = UUID(int=7)


async def test_overtaking_requests_are_counted_by_reason(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    def arrived(after_s: float, waited_s: float | None, **fields: object) -> Record:
        known = {
            "gateway_id": GATEWAY_ID,
            "batch_id": "a-2",
            "quantiles": [50.0] * 6,
            "service_tier": "default",
        }
        at = ARRIVED + timedelta(seconds=after_s)
        return a_record(
            arrived_at=at, queued_s=waited_s, **{"quantiles": [50.0] * 6, **known, **fields}
        )

    slow = arrived(0.0, 10.0, batch_id="a-1")
    await store(
        sessions,
        tmp_path,
        slow,
        arrived(1.0, 1.0, service_tier="priority", tenant_id=UUID(int=9)),
        arrived(2.0, 1.0, tenant_id=UUID(int=9)),
        arrived(3.0, 1.0, quantiles=[5.0] * 6),
        arrived(4.0, 1.0, quantiles=[5.0] * 6, service_tier=None),
        arrived(5.0, 1.0),
        arrived(6.0, 5.0, quantiles=[5.0] * 6),  # started later
        arrived(-1.0, 1.0, quantiles=[5.0] * 6),  # arrived earlier
        arrived(
            7.0, 1.0, quantiles=[5.0] * 6, gateway_id=UUID(int=8), batch_id="b-7"
        ),  # on another gateway
        arrived(7.5, 2.4999, quantiles=[5.0] * 6, batch_id="a-1"),  # started with it
        arrived(8.0, None, quantiles=[5.0] * 6, batch_id=None),  # never started
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
