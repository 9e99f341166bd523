"""The calibration of bands by the newest jobs that ended, on all gateways."""

import time
from typing import Final

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.jobs.batches.progress.calibration import (
    Calibration,
    EndedJob,
    calibrate,
    noted_forecasts,
)
from models import Batch

JOBS: Final = 64
KEPT_S: Final = 10.0  # in memory, before the jobs are read again


class Calibrations:
    """The present calibration for the jobs of one model."""

    def __init__(self, sessions: Sessions, model: str) -> None:
        self._sessions = sessions
        self._model = model
        self._known: Calibration | None = None
        self._until_s = 0.0

    async def current(self) -> Calibration:
        """The calibration by the newest jobs. DatabaseLost."""
        if self._known is None or time.monotonic() > self._until_s:
            self._known = calibrate(await self._jobs())
            self._until_s = time.monotonic() + KEPT_S
        return self._known

    async def _jobs(self) -> list[EndedJob]:
        newest = (
            select(Batch.forecasts, Batch.finalizing_at)
            .where(
                Batch.model == self._model,
                Batch.outcome == "completed",
                Batch.finalizing_at.is_not(None),
            )
            .order_by(Batch.id.desc())
            .limit(JOBS)
        )
        async with transaction(self._sessions) as session:
            rows = (await session.execute(newest)).all()
        return [
            EndedJob(noted_forecasts(row.forecasts), row.finalizing_at.timestamp()) for row in rows
        ]
