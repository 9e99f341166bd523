"""What is noted of a running job, and the calibration by jobs that ended, on a real database."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from gateway.database.errors import Sessions
from gateway.jobs.batches.progress.calibration import NotedForecast, calibrate
from gateway.jobs.batches.progress.ended_jobs import Calibrations
from gateway.jobs.batches.progress.samples import completion_of, note_progress
from models import Batch
from tests.integration.jobs.conftest import MODEL, MakeJob, change, reload

LINES = 10
WORK = 10.0 * LINES
AGO_S = 60.0


async def a_running_job(sessions: Sessions, make_job: MakeJob, share: float) -> Batch:
    """A job that has done this share of its work in a minute."""
    started = datetime.now(UTC) - timedelta(seconds=AGO_S)
    batch = await make_job(LINES, in_progress_at=started, work_done=share * WORK)
    await note_progress(sessions, MODEL, Counter())
    return await reload(sessions, batch)


async def test_progress_and_forecast_are_noted(sessions: Sessions, make_job: MakeJob) -> None:
    batch = await a_running_job(sessions, make_job, 0.5)
    assert [done for _, done in batch.progress] == [0.0, 50.0]
    (noted,) = msgspec.convert(batch.forecasts, list[NotedForecast])
    assert noted.share == 0.5
    assert noted.left_s == pytest.approx(noted.at - batch.progress[0][0])
    await note_progress(sessions, MODEL, Counter())  # soon after: nothing new
    assert await reload(sessions, batch) is not batch
    assert (await reload(sessions, batch)).forecasts == batch.forecasts


@pytest.mark.parametrize("stored", [[[1]], ["late", 2], {"a": 1}, [["x", None]]])
async def test_progress_that_cannot_be_read_is_begun_again(
    sessions: Sessions, make_job: MakeJob, stored: object
) -> None:
    lying = await a_running_job(sessions, make_job, 0.5)
    await change(sessions, lying, progress=stored, forecasts=stored)
    other = await a_running_job(sessions, make_job, 0.5)
    assert len(other.forecasts) == 1
    await change(sessions, lying, in_progress_at=None, progress=stored)
    await note_progress(sessions, MODEL, Counter())
    ((at, done),) = (await reload(sessions, lying)).progress
    assert (at > AGO_S, done) == (True, 50.0)
    ended = {"status": "completed", "outcome": "completed", "finalizing_at": datetime.now(UTC)}
    await change(sessions, lying, **ended, forecasts=stored)
    assert await Calibrations(sessions, MODEL).current() == calibrate([])


async def test_job_whose_progress_cannot_be_noted_keeps_no_other_from_its_own(
    sessions: Sessions, make_job: MakeJob
) -> None:
    endless = [[-1.7e308, 0.0]]  # so what is left takes longer than a float holds
    wrong = await make_job(LINES, work=2_000.0, work_done=500.0, progress=endless)
    faults = Counter[str]()
    other = await a_running_job(sessions, make_job, 0.5)
    await change(sessions, other, progress=[])
    await note_progress(sessions, MODEL, faults)
    assert len((await reload(sessions, other)).progress) == 2
    found = await reload(sessions, wrong)
    assert (len(found.progress), found.forecasts) == (1, [])
    assert faults == {"progress": 1}


async def test_ends_of_jobs_move_the_band_of_the_next(
    sessions: Sessions, make_job: MakeJob
) -> None:
    assert await Calibrations(sessions, MODEL).current() == calibrate([])
    for _ in range(LINES):  # each took three times as long as expected at its half
        batch = await a_running_job(sessions, make_job, 0.5)
        at = datetime.fromtimestamp(batch.forecasts[0][1] + 3 * AGO_S, UTC)
        await change(sessions, batch, status="completed", outcome="completed", finalizing_at=at)
    calibration = await Calibrations(sessions, MODEL).current()
    assert calibration.scales[2].p90 > calibrate([]).scales[2].p90
    assert calibration.scales[0] == calibrate([]).scales[0]
    running = await a_running_job(sessions, make_job, 0.5)
    before = completion_of(running, calibrate([]), ahead=0.0, pace=None)
    after = completion_of(running, calibration, ahead=0.0, pace=None)
    assert before is not None
    assert after is not None
    assert after.p90 > before.p90
    assert await Calibrations(sessions, "another model").current() == calibrate([])
