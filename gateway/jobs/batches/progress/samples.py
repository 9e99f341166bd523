"""Keeps a record of the progress of the jobs that run, and of what was expected of them."""

from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog
from sqlalchemy import select

from gateway.database.errors import Sessions, now_of, transaction
from gateway.jobs.batches.claims.attempts import is_outage
from gateway.jobs.batches.progress.calibration import (
    Calibration,
    NotedForecast,
    noted_forecasts,
    share_to_note,
)
from gateway.jobs.batches.progress.completion import (
    Band,
    Sample,
    expected_completion,
    forecast,
    with_sample,
)
from models import Batch

INTERVAL_S: Final = 2.0
RUNNING: Final = ("in_progress",)

log = structlog.get_logger()


async def note_progress(sessions: Sessions, model: str, faults: MutableMapping[str, int]) -> None:
    """Add the present progress of every running job; one gateway does, others skip the job.

    `faults` counts the jobs whose progress cannot be noted.
    """
    async with transaction(sessions) as session:
        now = (await now_of(session)).timestamp()
        running = select(Batch).where(Batch.status.in_(RUNNING), Batch.model == model)
        for batch in (await session.scalars(running.with_for_update(skip_locked=True))).all():
            batch_id = batch.id
            try:
                async with session.begin_nested():
                    _note(batch, now)
            except Exception as error:  # the other jobs have theirs
                if is_outage(error):
                    raise
                faults["progress"] += 1
                log.warning("batch_progress_not_noted", batch=str(batch_id), reason=repr(error))


def completion_of(
    batch: Batch, calibration: Calibration, *, ahead: float, pace: float | None
) -> Band | None:
    """When a job will be done; None if it has ended, or nothing is known yet."""
    if batch.status not in RUNNING:
        return None
    now_s = datetime.now(UTC).timestamp()
    return expected_completion(
        _samples(batch),
        _left(batch),
        now_s,
        ahead=ahead,
        pace=pace,
        scale=calibration.scale_at(_share(batch)),
    )


def _note(batch: Batch, now: float) -> None:
    """Add a job's present progress, and what is expected of it."""
    samples, started = _samples(batch), batch.in_progress_at
    if not samples and started is not None:
        samples = [(started.timestamp(), 0.0)]
    if not samples or now - samples[-1][0] >= INTERVAL_S:
        samples = with_sample(samples, now, batch.work_done)
        batch.progress = samples
    _note_forecast(batch, samples, now)


def _note_forecast(batch: Batch, samples: list[Sample], now: float) -> None:
    """Note what is expected of a job if it has just passed a share at which that is noted."""
    noted = noted_forecasts(batch.forecasts)
    share, found = share_to_note(_share(batch), noted), forecast(samples, _left(batch))
    if share is not None and found is not None and found.left_s > 0:
        noted.append(NotedForecast.of(share, now, found))
        batch.forecasts = msgspec.to_builtins(noted)


def _samples(batch: Batch) -> list[Sample]:
    """The progress so far; none if what is stored cannot be read."""
    try:
        return msgspec.convert(batch.progress, list[Sample])
    except msgspec.ValidationError as error:
        log.warning("batch_progress_unreadable", batch=str(batch.id), reason=str(error))
        return []


def _left(batch: Batch) -> float:
    return max(batch.work - batch.work_done, 0.0)


def _share(batch: Batch) -> float:
    return batch.work_done / batch.work if batch.work else 0.0
