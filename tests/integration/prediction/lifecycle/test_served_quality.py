"""Sums over history against the same by hand."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import floor, log2
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.lifecycle.served_quality import BINS_PER_OCTAVE, ServedQualities
from tests.conftest import Builder

HOUR = timedelta(hours=1)


async def test_density_coverage_and_apps_are_those_of_the_rows(
    sessions: Sessions, build: Builder, a_record: Callable[..., Record], tmp_path: Path
) -> None:
    apps, random, now = [await build.app() for _ in range(3)], Random(1), datetime.now(UTC)
    rows = []
    for number in range(60):
        median, app = random.uniform(2, 300), apps[number % 3]
        rows.append(
            a_record(
                arrived_at=now - HOUR * random.uniform(0.01, 0.99),
                tenant_id=app.tenant_id,
                app_id=app.id,
                max_tokens=2_000,
                quantiles=[median / 2, median / 1.5, median, 1.5 * median, 2 * median, 3 * median],
                generation_tokens=max(1, round(median * random.uniform(0.2, 2.6))),
            )
        )
    left_out = [
        a_record(arrived_at=now - 2 * HOUR),
        a_record(model="another"),
        a_record(censored=True),
        a_record(forced=True),
        a_record(prediction_source="imported"),
    ]
    writer = HistoryWriter(sessions, tmp_path)
    for record in [*rows, *left_out]:
        writer.record(record)
    await writer.flush()
    await writer.close()
    found = await ServedQualities(sessions, "model").read(HOUR, 6)

    def bin_of(tokens: float) -> int:
        return floor(BINS_PER_OCTAVE * log2(tokens))

    def quality(some: list[Any]) -> tuple[float, float]:
        used = sum(row.generation_tokens for row in some)
        covered = sum(row.generation_tokens <= row.quantiles[4] for row in some) / len(some)
        return covered, sum(row.quantiles[4] for row in some) / used

    assert found.rows == len(rows)
    expected = Counter((bin_of(row.quantiles[2]), bin_of(row.generation_tokens)) for row in rows)
    assert {(cell.predicted, cell.actual): cell.rows for cell in found.density} == expected
    assert sum(bucket.rows for bucket in found.buckets) == len(rows)
    assert len(found.buckets) <= 7
    for shown in found.apps:
        of_app = quality([row for row in rows if row.app_id == shown.app_id])
        assert (shown.coverage, shown.held) == pytest.approx(of_app)
    assert [app.held for app in found.apps] == sorted((a.held for a in found.apps), reverse=True)
    assert {app.app for app in found.apps} == {app.name for app in apps}


async def test_without_history_there_is_nothing(sessions: Sessions) -> None:
    found = await ServedQualities(sessions, "model").read(HOUR, 6)
    assert (found.rows, found.density, found.buckets, found.apps) == (0, [], [], [])
