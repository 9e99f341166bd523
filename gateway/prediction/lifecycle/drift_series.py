"""Prediction quality over time: one query over history, in buckets."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
from msgspec import Struct
from sqlalchemy import TextClause, text

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.prediction.serving.drift import Quality
from gateway.prediction.training.scorecard import kendall_tau
from gateway.quantiles import MEDIAN, P90, Floats

MAX_BUCKET_ROWS: Final = 500  # the newest of a bucket: τ compares all pairs

_SERIES: Final = """
    SELECT bucket.number, row.generation_tokens, row.median, row.upper
    FROM generate_series(0, :buckets - 1) AS bucket (number)
    CROSS JOIN LATERAL (
        SELECT generation_tokens, quantiles[{median}] AS median, quantiles[{upper}] AS upper
        FROM requests
        WHERE {condition}
          AND arrived_at >= :since + bucket.number * CAST(:width AS interval)
          AND arrived_at < :since + (bucket.number + 1) * CAST(:width AS interval)
          AND prediction_source = 'model' AND service_tier IS DISTINCT FROM 'batch'
          AND (NOT censored OR generation_tokens >= max_tokens) AND forced IS NOT TRUE
        ORDER BY arrived_at DESC LIMIT :most
    ) AS row
"""


def _statement(condition: str) -> TextClause:
    """The series over rows that meet a condition; SQL arrays are indexed from 1."""
    return text(_SERIES.format(condition=condition, median=MEDIAN + 1, upper=P90 + 1))


_SERIES_OF_MODEL: Final = _statement("model = :model")
_SERIES_OF_APP: Final = _statement("model = :model AND app_id = :app")


class Bucket(Struct, frozen=True):
    """An interval that starts at `since`; `quality` is None without predictions by a version."""

    since: datetime
    quality: Quality | None


class DriftSeries:
    """Coverage and τ of the predictions served for one model."""

    def __init__(self, sessions: Sessions, model: str) -> None:
        self._sessions = sessions
        self._model = model

    async def show(
        self, *, app: UUID | None, window: timedelta, buckets: int, until: datetime | None = None
    ) -> list[Bucket]:
        """The window before `until`, by default now, in buckets, oldest first.

        Each is measured on its newest MAX_BUCKET_ROWS outcomes that a version predicted.
        """
        since, width = (until or datetime.now(UTC)) - window, window / buckets
        statement = _SERIES_OF_MODEL if app is None else _SERIES_OF_APP
        given = {"model": self._model, "since": since, "width": width, "buckets": buckets}
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            rows = await session.execute(statement, given | {"app": app, "most": MAX_BUCKET_ROWS})
            found = rows.all()
        qualities = await asyncio.to_thread(_qualities, found, buckets)
        return [Bucket(since + number * width, quality) for number, quality in enumerate(qualities)]


def _qualities(rows: Sequence[Any], buckets: int) -> list[Quality | None]:
    table = np.array([tuple(row) for row in rows], dtype=np.float64).reshape(-1, 4)
    return [_quality(table[table[:, 0] == number]) for number in range(buckets)]


def _quality(rows: Floats) -> Quality | None:
    if not len(rows):
        return None
    tokens, median, upper = rows[:, 1], rows[:, 2], rows[:, 3]
    return Quality(
        outcomes=len(rows),
        coverage=float((tokens <= upper).mean()),
        tau=kendall_tau(tokens, median),
    )
