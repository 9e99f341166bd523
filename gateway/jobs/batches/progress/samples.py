"""Keeps a record of the progress of the jobs that run."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select

from gateway.database.errors import Sessions, now_of, transaction
from gateway.jobs.batches.progress.completion import Band, expected_completion, with_sample
from models import Batch

INTERVAL_S: Final = 5.0
RUNNING: Final = ("in_progress",)


async def note_progress(sessions: Sessions, model: str) -> None:
    """Add the present progress of every running job; one gateway does, others skip the job."""
    async with transaction(sessions) as session:
        now = (await now_of(session)).timestamp()
        running = select(Batch).where(Batch.status.in_(RUNNING), Batch.model == model)
        for batch in await session.scalars(running.with_for_update(skip_locked=True)):
            samples = [(at, done) for at, done in batch.progress]
            started = batch.in_progress_at
            if not samples and started is not None:
                samples = [(started.timestamp(), 0.0)]
            if now - samples[-1][0] >= INTERVAL_S:
                batch.progress = with_sample(samples, now, batch.work_done)


def completion_of(batch: Batch, *, ahead: float, pace: float | None) -> Band | None:
    """When a job will be done; None if it has ended, or nothing is known yet."""
    if batch.status not in RUNNING:
        return None
    now_s = datetime.now(UTC).timestamp()
    samples = [(at, done) for at, done in batch.progress]
    left = max(batch.work - batch.work_done, 0.0)
    return expected_completion(samples, left, now_s, ahead=ahead, pace=pace)
