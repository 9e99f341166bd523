"""The training process: its exit code, its log and the reason in the run's row."""

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from gateway.child_process import child_environment
from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.run_log import RunLog
from gateway.prediction.lifecycle.runs import COMMAND
from gateway.tenancy.tenants import Tenants
from models import TrainingRun

ROWS = 120
EndedRun = tuple[int, str, TrainingRun]


class Trainer:
    """Puts outcomes into history, and starts training processes as the gateway does."""

    def __init__(
        self, sessions: Sessions, url: str, folder: Path, a_record: Callable[..., Record]
    ) -> None:
        self._sessions = sessions
        self._url = url
        self._history = HistoryWriter(sessions, folder)
        self._a_record = a_record

    async def outcomes(self, rows: int, **given: object) -> None:
        """Answers about as long as their inputs; any field of the records can be given."""
        random = np.random.default_rng(1)
        for _ in range(rows):
            features = np.zeros(len(NAMES), dtype=np.float32)
            features[USER_INPUT_COLUMN] = random.uniform(2, 5)
            fields: dict[str, object] = {
                "model": "demo",
                "max_tokens": 2_000,
                "features": features.tobytes(),
                "generation_tokens": round(float(np.exp(features[USER_INPUT_COLUMN]))),
            }
            self._history.record(self._a_record(**(fields | given)))
        await self._history.flush()

    async def train(self) -> EndedRun:
        """The exit code of a run's process, its standard error, and the run's row."""
        run = await RunLog(self._sessions).queue("demo", by="olga", activate=True)
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "--run", str(run.id), "--model-hash", "abc"),
            stdin=PIPE,  # stays open until the process has ended
            stderr=PIPE,
            env=child_environment() | {"DATABASE_URL": self._url},
        )
        assert process.stderr is not None
        errors = await process.stderr.read()
        row = await Registry(self._sessions).run(run.id)
        return await process.wait(), errors.decode(), row


@pytest.fixture
def trainer(
    sessions: Sessions, postgres_url: str, tmp_path: Path, a_record: Callable[..., Record]
) -> Trainer:
    return Trainer(sessions, postgres_url, tmp_path, a_record)


def events(errors: str) -> list[str]:
    """The logged events; ValueError if anything else was printed."""
    return [json.loads(line)["event"] for line in errors.splitlines()]


async def test_successful_run_exits_0_and_prints_only_its_log(trainer: Trainer) -> None:
    await trainer.outcomes(ROWS)
    code, errors, run = await trainer.train()
    assert (code, run.state, run.error) == (0, "succeeded", None)
    assert events(errors)[-1] == "predictor_version_made"


async def test_damaged_rows_are_left_out_of_a_run(trainer: Trainer) -> None:
    await trainer.outcomes(ROWS)
    await trainer.outcomes(1, embedding=b"no vector.")
    await trainer.outcomes(1, generation_tokens=-3)
    code, errors, run = await trainer.train()
    assert (code, run.state, run.error) == (0, "succeeded", None)
    assert "training_rows_unusable" in events(errors)
    assert run.samples is not None
    assert run.samples["unusable"] == {"vectors": 1, "length": 1}


async def test_refused_run_exits_1_with_its_reason(trainer: Trainer) -> None:
    code, errors, run = await trainer.train()
    assert (code, run.state) == (1, "failed")
    assert run.error == (
        "training needs at least 100 complete answers of model demo from the last 90 days, found 0"
    )
    assert events(errors)[-1] == "training_failed"


async def test_refused_run_counts_the_rows_that_do_not_count_by_reason(
    trainer: Trainer, sessions: Sessions
) -> None:
    tenants = Tenants(sessions)
    opted_out = (await tenants.create("private", by="admin")).id
    await tenants.change(opted_out, learning=False, by="olga")
    await trainer.outcomes(46)
    await trainer.outcomes(7, censored=True, generation_tokens=2_000)
    await trainer.outcomes(5, censored=True)
    await trainer.outcomes(2, censored=True, generation_tokens=0)
    await trainer.outcomes(3, tenant_id=opted_out)
    await trainer.outcomes(4, feature_version=0)
    await trainer.outcomes(1, arrived_at=datetime.now(UTC) - timedelta(days=100))
    await trainer.outcomes(6, model="other")
    await trainer.outcomes(8, embedding=b"no vector.")
    _, _, run = await trainer.train()
    assert run.error == (
        "training needs at least 100 complete answers of model demo from the last 90 days, "
        "found 46; not counted: 3 of tenants that opted out of learning, 4 stored without "
        "features (erased, or the tenant had opted out), 1 older than that, 2 without any token, "
        "7 cut off by max_tokens, 5 stopped early by their clients or by an error, "
        "6 of other models, 8 with numbers that cannot be"
    )
    assert run.samples is not None
    assert (run.samples["complete"], run.samples["cut_off"]) == (46, 12)
    assert run.samples["excluded"] == {
        "opted_out": 3,
        "erased": 4,
        "too_old": 1,
        "no_token": 2,
        "cut_off": 7,
        "stopped": 5,
        "other_model": 6,
        "unusable": 8,
    }


async def test_crashed_run_exits_1_with_the_error_in_its_row(
    trainer: Trainer, database: Database
) -> None:
    rename = "ALTER TABLE training_schedules RENAME TO {}"
    async with database.engine.begin() as connection:
        await connection.execute(text(rename.format("away")))
    try:
        code, errors, run = await trainer.train()
    finally:
        async with database.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO training_schedules"))
    assert (code, run.state) == (1, "failed")
    assert run.error is not None
    assert run.error.startswith("the training process failed: ProgrammingError: (psycopg.errors.Un")
    assert 'relation "training_schedules" does not exist' in errors


async def test_schedule_that_cannot_be_read_stops_no_training(
    trainer: Trainer, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO training_schedules (model, settings, changed_by)"
                """ VALUES ('demo', '{"window": "wide", "history_days": null}', 'no one')"""
            )
        )
    await trainer.outcomes(ROWS)
    code, errors, run = await trainer.train()
    assert (code, run.state, run.error) == (0, "succeeded", None)
    assert "schedule_unreadable" in events(errors)
