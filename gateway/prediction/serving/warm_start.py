"""Reads the newest outcomes of history, to warm-start length history and adaptation."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final
from uuid import UUID

import structlog
from msgspec import Struct
from sqlalchemy import ColumnElement, func, select

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.database.far_times import MAX_CLOCK_ERROR
from gateway.history.record import BATCH_TIER
from gateway.prediction.features.features import (
    FEATURE_BYTES,
    FEATURE_VERSION,
    NOTED_BYTES,
    is_finite,
)
from gateway.prediction.features.length_history import LengthOutcome
from gateway.prediction.messages import IMPORTED, known_form
from models import RequestRecord

MAX_ROWS: Final = 20_000
ROWS_PER_TURN: Final = 250  # of the event loop; they take about 2 ms
NOT_FORCED: Final = RequestRecord.forced.is_not(True)

log = structlog.get_logger()


class HistoryRow(Struct, frozen=True):
    """A row of history: the outcome, and its prediction for the calibration."""

    outcome: LengthOutcome
    predictor: UUID | None
    feature_version: int
    features: bytes
    source: str
    first_scored: bytes | None = None


async def recent_outcomes(
    sessions: Sessions,
    model: str,
    *,
    predictor: UUID | None = None,
    limit: int = MAX_ROWS,
    batch: bool = False,
) -> list[HistoryRow]:
    """The newest `limit` outcomes of a model, oldest first; of one version, if given.

    Those of interactive requests, or with `batch` those of batch jobs' lines. Forced lengths, and
    rows with numbers that cannot be, are left out.
    """
    newest = (
        select(
            RequestRecord.tenant_id,
            RequestRecord.app_id,
            RequestRecord.end_user,
            RequestRecord.generation_tokens,
            RequestRecord.censored,
            RequestRecord.arrived_at,
            RequestRecord.response_s,
            RequestRecord.predictor_id,
            RequestRecord.feature_version,
            RequestRecord.features,
            RequestRecord.prediction_source,
            RequestRecord.first_scored,
            RequestRecord.form,
        )
        .where(RequestRecord.model == model, of_lane(batch=batch), NOT_FORCED)
        .order_by(RequestRecord.arrived_at.desc())
        .limit(limit)
    )
    if predictor is not None:
        newest = newest.where(RequestRecord.predictor_id == predictor)
    found: list[HistoryRow] = []
    async with transaction(sessions, within_s=LONG_TRANSACTION_S) as session:
        rows = await session.stream(newest, execution_options={"yield_per": ROWS_PER_TURN})
        async for part in rows.partitions():
            found.extend(_history_rows(part))
    latest_s = (datetime.now(UTC) + MAX_CLOCK_ERROR).timestamp()
    usable = [row for row in found if _is_usable(row, latest_s)]
    if len(usable) < len(found):
        log.warning("history_rows_unusable", model=model, rows=len(found) - len(usable))
    usable.reverse()
    return usable


def _is_usable(row: HistoryRow, latest_s: float) -> bool:
    """Whether length, times and, if they are of this feature version, vectors can be."""
    outcome = row.outcome
    if outcome.tokens < 0 or not isfinite(outcome.ended_at) or outcome.ended_at > latest_s:
        return False
    if row.feature_version != FEATURE_VERSION or not row.features:
        return True
    first = row.first_scored
    return is_finite(row.features, FEATURE_BYTES) and (not first or is_finite(first, NOTED_BYTES))


def _history_rows(rows: Sequence[Any]) -> list[HistoryRow]:
    return [
        HistoryRow(
            LengthOutcome(
                tenant,
                app,
                user,
                tokens,
                censored,
                ended_at(arrived, response_s),
                known_form(form),
            ),
            predictor,
            version,
            vector,
            source,
            first_scored,
        )
        for (
            tenant, app, user, tokens, censored, arrived, response_s, predictor, version, vector,
            source, first_scored, form,
        ) in rows
    ]  # fmt: skip


async def newest_start(sessions: Sessions, model: str, limit: int) -> datetime:
    """Arrival of the oldest among the newest `limit` outcomes; the Unix epoch without any."""
    newest = (
        select(RequestRecord.arrived_at)
        .where(RequestRecord.model == model, of_lane(batch=False), NOT_FORCED)
        .order_by(RequestRecord.arrived_at.desc())
        .limit(limit)
        .subquery()
    )
    async with transaction(sessions, within_s=LONG_TRANSACTION_S) as session:
        oldest = await session.scalar(select(func.min(newest.c.arrived_at)))
    return oldest or datetime.fromtimestamp(0, UTC)


async def count_since(sessions: Sessions, model: str, since: datetime | None, *, limit: int) -> int:
    """The number of outcomes that arrived since then, or ever; at most `limit`."""
    rows = select(RequestRecord.id).where(
        RequestRecord.model == model,
        RequestRecord.prediction_source != IMPORTED,
        of_lane(batch=False),
        NOT_FORCED,
    )
    if since is not None:
        rows = rows.where(RequestRecord.arrived_at > since)
    async with transaction(sessions, within_s=LONG_TRANSACTION_S) as session:
        return (
            await session.scalar(select(func.count()).select_from(rows.limit(limit).subquery()))
            or 0
        )


def of_lane(*, batch: bool) -> ColumnElement[bool]:
    """Rows of batch jobs' lines, or all others."""
    tier = RequestRecord.service_tier
    return tier == BATCH_TIER if batch else tier.is_distinct_from(BATCH_TIER)


def ended_at(arrived_at: datetime, response_s: float) -> float:
    """Unix time at which a request finished."""
    return arrived_at.timestamp() + response_s
