"""The training process: executes one run, `--run UUID --model-hash HASH --embedder FOLDER`.

A child process that may be killed at any time; it reads DATABASE_URL from the environment. Exit
code 0 if it made a version, otherwise 1, with the reason in the run's row.
"""

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from gateway.child_process import end_with_parent
from gateway.database.connection import Database
from gateway.errors import LmaasError, PredictorRefused
from gateway.logs import set_up_child_logging
from gateway.prediction.features.embedder_model import (
    EmbedderModel,
    find_embedder,
    packaged_embedder,
)
from gateway.prediction.features.features import FEATURE_VERSION
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.run_log import RunLog, training_lock
from gateway.prediction.lifecycle.runs import THREADS
from gateway.prediction.lifecycle.schedule import Schedules
from gateway.prediction.model.artefact import Artefact, decode, encode
from gateway.prediction.training.fitting import JudgedVersion, make_version
from gateway.prediction.training.row_counts import (
    MIN_TRAINING_ROWS,
    count_excluded,
    too_few_rows,
)
from gateway.prediction.training.samples import Samples, read_samples
from models import Predictor, TrainingRun

log = structlog.get_logger()

NICENESS = 10  # live requests take precedence
SEED_MASK = (1 << 31) - 1  # of the run id: each run draws other rows


async def train(
    database: Database, run_id: UUID, model_hash: str, embedder: EmbedderModel | None = None
) -> bool:
    """Execute a queued run; True if it made a version. Its state is recorded in its row."""
    embedder = embedder or packaged_embedder()
    registry, training_log = Registry(database.sessions), RunLog(database.sessions)
    run = await registry.run(run_id)
    try:
        async with training_lock(database.engine, run.model):
            await training_log.mark_running(run_id)
            await _make_version(database, registry, training_log, run, model_hash, embedder)
    except LmaasError as error:
        log.warning("training_failed", run=str(run_id), reason=error.message)
        await training_log.mark_failed(run_id, error.message)
        return False
    except Exception as error:
        await training_log.mark_failed(run_id, _unexpected_error(error))
        raise
    return True


def _unexpected_error(error: Exception) -> str:
    """An unexpected error as one line, without the SQL statement that follows it."""
    first_line = str(error).partition("\n")[0]
    return f"the training process failed: {type(error).__name__}: {first_line}"


async def _make_version(
    database: Database,
    registry: Registry,
    training_log: RunLog,
    run: TrainingRun,
    model_hash: str,
    embedder: EmbedderModel,
) -> Predictor:
    async def on_progress(read: int, wanted: int) -> None:
        log.info("training_samples_reading", run=str(run.id), read=read, wanted=wanted)
        await training_log.set_phase(run.id, "reading", rows_read=read)

    await training_log.set_phase(run.id, "drawing")
    schedule, _ = await Schedules(database.sessions).show(run.model)
    since = datetime.now(UTC) - timedelta(days=schedule.history_days)
    samples, report = await read_samples(
        database.sessions,
        run.model,
        embedder=embedder,
        since=since,
        seed=run.id.int & SEED_MASK,
        on_progress=on_progress,
    )
    log.info("training_samples_read", run=str(run.id), rows=len(samples))
    report |= {
        "complete": samples.natural,
        "cut_off": len(samples) - samples.natural,
        "embedded": int(samples.inputs.embedded.sum()),
    }
    if samples.natural < MIN_TRAINING_ROWS:
        unusable = sum(report["unusable"].values())
        report["excluded"] = await count_excluded(database.sessions, run.model, since, unusable)
    await training_log.set_phase(run.id, "fitting", rows_read=len(samples), samples=report)
    if samples.natural < MIN_TRAINING_ROWS:
        raise too_few_rows(run.model, samples.natural, report["excluded"], schedule.history_days)
    active, refusal = await _active(registry, run.model, model_hash, embedder.id)
    judged = make_version(
        samples,
        model=run.model,
        model_hash=model_hash,
        embedder=embedder.id,
        active=active,
        threads=THREADS,
    )
    activate = run.activate and judged.judgement.accepted
    metrics = judged.metrics() | {"activated": activate, "active_refused": refusal}
    await training_log.set_phase(run.id, "storing")
    version = await registry.publish(
        _predictor_row(run, model_hash, samples, judged, metrics), run.id, activate=activate
    )
    log.info("predictor_version_made", run=str(run.id), predictor=str(version.id), **metrics)
    return version


async def _active(
    registry: Registry, model: str, model_hash: str, embedder: str
) -> tuple[Artefact | None, str | None]:
    """The active version to compare with, or the reason that it cannot be used."""
    active = await registry.active(model)
    if active is None:
        return None, None
    try:
        stored = await registry.artefact(active)
        return decode(stored, model_hash=model_hash, embedder=embedder), None
    except PredictorRefused as refused:
        return None, refused.message


def _predictor_row(
    run: TrainingRun,
    model_hash: str,
    samples: Samples,
    judged: JudgedVersion,
    metrics: dict[str, object],
) -> Predictor:
    return Predictor(
        model=run.model,
        model_hash=model_hash,
        feature_version=FEATURE_VERSION,
        artefact=encode(judged.artefact),
        metrics=metrics,
        trained_from=samples.arrived[0],
        trained_until=samples.arrived[-1],
        rows=len(samples),
        created_by=run.created_by,
    )


async def _main(run_id: UUID, model_hash: str, embedder: EmbedderModel) -> bool:
    database = await Database.open(os.environ["DATABASE_URL"], statement_s=None)
    try:
        return await train(database, run_id, model_hash, embedder)
    finally:
        await database.close()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Fit a length predictor on history.")
    parser.add_argument("--run", type=UUID, required=True, help="the queued training run")
    parser.add_argument("--model-hash", required=True, help="hash of the served model")
    parser.add_argument("--embedder", help="folder of a sentence-transformers model")
    parser.add_argument("--with-parent", action="store_true", help="exit when stdin closes")
    arguments = parser.parse_args()
    set_up_child_logging("info")
    if arguments.with_parent:
        end_with_parent()
    os.nice(NICENESS)
    main_run = _main(arguments.run, arguments.model_hash, find_embedder(arguments.embedder))
    sys.exit(0 if asyncio.run(main_run) else 1)


if __name__ == "__main__":
    main()
