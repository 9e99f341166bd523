"""Usage by day equals the rows of history, whatever is recorded, redelivered or erased."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.usage.prices import NewPrice, Prices
from gateway.usage.report import Group, UsageFilter, UsageReport
from models import NO_PRICE, KeyUsageDay, Price, RequestRecord, UsageDay
from models.base import new_id
from tests.conftest import Builder

ALL = UsageFilter(since=date(2000, 1, 1), until=date(2100, 1, 1))
COUNTS = ("requests", "failed", "prompt_tokens", "cached_tokens", "generation_tokens")
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


async def raw(sessions: Sessions) -> Counter[tuple[object, ...]]:
    """What the rows of history add up to, summed here, by the key of the rollup and the count."""
    sums: Counter[tuple[object, ...]] = Counter()
    async with sessions() as session:
        rows = (await session.scalars(select(RequestRecord))).all()
    for row in rows:
        if row.prediction_source == "imported":
            continue
        unsent = row.finish_reason == "lost" and not row.generation_tokens
        failed, first = row.finish_reason == "error" or unsent, row.first_id is None
        reads = first and row.queued_s is not None and not failed
        counts = {
            "requests": int(first),
            "failed": int(first and failed),
            "prompt_tokens": row.prompt_tokens if reads else 0,
            "cached_tokens": (row.cached_tokens or 0) if reads else 0,
            "generation_tokens": 0 if failed else row.generation_tokens,
        }
        key = (
            *(row.tenant_id, row.arrived_at.astimezone(UTC).date(), row.app_id, row.api_key_id),
            *(row.model, row.service_tier or "", row.price_id or NO_PRICE, row.end_user or ""),
        )
        for name, count in counts.items():
            sums[*key, name] += count
    return +sums


async def rolled_up(sessions: Sessions) -> Counter[tuple[object, ...]]:
    async with sessions() as session:
        rows = (await session.scalars(select(UsageDay))).all()
    return summed((row, (*of_key(row), row.end_user)) for row in rows)


async def rolled_up_without_users(sessions: Sessions) -> Counter[tuple[object, ...]]:
    async with sessions() as session:
        rows = (await session.scalars(select(KeyUsageDay))).all()
    return summed((row, of_key(row)) for row in rows)


def of_key(row: UsageDay | KeyUsageDay) -> tuple[object, ...]:
    return (
        *(row.tenant_id, row.day, row.app_id, row.api_key_id),
        *(row.model, row.service_tier, row.price_id),
    )


def summed(
    rows: Iterable[tuple[UsageDay | KeyUsageDay, tuple[object, ...]]],
) -> Counter[tuple[object, ...]]:
    sums: Counter[tuple[object, ...]] = Counter()
    for row, key in rows:
        for name in COUNTS:
            assert getattr(row, name) >= 0
            sums[*key, name] += getattr(row, name)
    return +sums


def without_users(sums: Counter[tuple[object, ...]]) -> Counter[tuple[object, ...]]:
    found: Counter[tuple[object, ...]] = Counter()
    for (*key, _, name), count in sums.items():
        found[*key, name] += count
    return found


def random_record(
    rng: Random, a_record: Callable[..., Record], tenants: list[UUID], arrived: datetime
) -> Record:
    return a_record(
        arrived_at=arrived,
        tenant_id=rng.choice(tenants),
        app_id=UUID(int=rng.randint(1, 2)),
        api_key_id=UUID(int=rng.randint(1, 2)),
        end_user=rng.choice([None, "", "ursula", "victor"]),
        model=rng.choice(["m", "n"]),
        prompt_tokens=rng.randint(1, 50),
        cached_tokens=rng.choice([None, 0, 1]),
        generation_tokens=rng.randint(0, 50),
        finish_reason=rng.choice(["stop", "length", "cancelled", "error", "lost"]),
        queued_s=rng.choice([None, 0.1]),
        service_tier=rng.choice([None, "default", "batch"]),
        first_id=rng.choice([None, None, UUID(int=9)]),
        features=b"f",
    )


async def test_usage_equals_history_after_any_mix_of_gateways_redelivery_and_erasure(
    sessions: Sessions, build: Builder, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    rng = Random(22)
    tenants = [(await build.tenant()).id for _ in range(2)]
    prices, erasure = Prices(sessions), SampleErasure(sessions)
    gateways = [HistoryWriter(sessions, tmp_path / str(number)) for number in range(2)]
    recorded: list[Record] = []
    for step in range(12):
        for gateway in gateways:
            for _ in range(rng.randint(0, 8)):
                late = timedelta(hours=rng.choice([0, 0, 1, 24, 49]))
                record = random_record(rng, a_record, tenants, datetime.now(UTC) - late)
                recorded.append(record)
                gateway.record(record)
            for record in rng.sample(recorded, min(3, len(recorded))):  # of a killed process
                gateway.record(record)
        await asyncio.gather(*(gateway.flush() for gateway in gateways))
        if step % 4 == 1:
            paid = Decimal(rng.randint(0, 10**6)).scaleb(-4)
            new = NewPrice(model="m", input=paid, cached_input=paid / 2, output=paid * 3)
            await prices.set(new, by="admin")
        if step % 4 == 3:
            await erasure.erase(rng.choice(tenants), rng.choice([None, "ursula"]), by="admin")
        rows = await raw(sessions)
        assert await rolled_up(sessions) == rows
        assert await rolled_up_without_users(sessions) == without_users(rows)
    async with sessions() as session:
        assert not (await session.scalars(select(UsageDay).where(UsageDay.requests < 0))).all()
        known = {price.id: price for price in await session.scalars(select(Price))}
    cost = Decimal(0)
    for key, count in (await raw(sessions)).items():
        if (price := known.get(key[6])) is not None:  # type: ignore[call-overload]
            cached = {"prompt_tokens": price.input, "generation_tokens": price.output}
            per = {**cached, "cached_tokens": price.cached_input - price.input}
            cost += count * per.get(str(key[-1]), Decimal(0)) / 10**6
    (total,) = (await UsageReport(sessions).read(ALL, [], limit=1)).items
    assert Decimal(total.cost) == cost > 0


async def test_days_are_of_utc_and_imported_rows_are_no_usage(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    writer.record(a_record(arrived_at=MIDNIGHT - timedelta(microseconds=1)))
    writer.record(a_record(arrived_at=MIDNIGHT))
    writer.record(a_record(arrived_at=MIDNIGHT, prediction_source="imported"))
    await writer.flush()
    page = await UsageReport(sessions).read(ALL, [Group.DAY], limit=10)
    assert [(each.day, each.requests) for each in page.items] == [
        (date(2026, 2, 28), 1),
        (date(2026, 3, 1), 1),
    ]


async def test_choices_share_a_prompt_and_what_failed_or_never_started_reads_none(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    writer, first = HistoryWriter(sessions, tmp_path), new_id()
    writer.record(a_record(id=first, prompt_tokens=100, generation_tokens=5))
    writer.record(a_record(first_id=first, prompt_tokens=100, generation_tokens=7))
    writer.record(a_record(finish_reason="error", prompt_tokens=1_000, generation_tokens=9))
    shed: dict[str, Any] = {"finish_reason": "cancelled", "queued_s": None, "generation_tokens": 0}
    writer.record(a_record(prompt_tokens=10_000, **shed))
    await writer.flush()
    (total,) = (await UsageReport(sessions).read(ALL, [], limit=1)).items
    assert (total.requests, total.failed, total.unpriced) == (3, 1, 2)
    assert (total.prompt_tokens, total.generation_tokens) == (100, 12)


async def test_rows_of_the_previous_release_are_counted_once_each(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    """It inserts one row a statement, and knows none of the new columns."""
    writer = HistoryWriter(sessions, tmp_path)
    writer.record(a_record())
    await writer.flush()
    new = {"first_id", "cached_tokens", "price_id"}
    async with sessions.begin() as session:
        row = (await session.scalars(select(RequestRecord))).one()
        names = [column.key for column in RequestRecord.__table__.columns if column.key not in new]
        values = {name: getattr(row, name) for name in names}
        for _ in range(2):
            await session.execute(insert(RequestRecord).on_conflict_do_nothing(), values)
        await session.execute(insert(RequestRecord), values | {"id": new_id()})
    (total,) = (await UsageReport(sessions).read(ALL, [], limit=1)).items
    assert total.requests == 2


async def test_nothing_used_is_a_sum_of_zeros_and_pages_are_bounded(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    report = UsageReport(sessions)
    (total,) = (await report.read(ALL, [], limit=1)).items
    assert (total.requests, total.cost) == (0, "0")
    writer = HistoryWriter(sessions, tmp_path)
    for number in range(3):
        writer.record(a_record(end_user=f"user {number}"))
    await writer.flush()
    first = await report.read(ALL, [Group.USER], limit=2)
    rest = await report.read(ALL, [Group.USER], limit=2, offset=2)
    assert [each.user for each in (*first.items, *rest.items)] == ["user 0", "user 1", "user 2"]
    assert (first.more, rest.more) == (True, False)
