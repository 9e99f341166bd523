"""`lmaas admin predictors train --wait`: its progress, its result, and Ctrl-C."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.lifecycle.registry import Registry
from tests.integration.api_admin.conftest import ADMIN_KEY, ROOT, Run
from tests.integration.prediction.lifecycle.test_training_runs import unreadable_history


@pytest.fixture
async def history(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> HistoryWriter:
    """Answers to train on, each as long as its input."""
    writer, random = HistoryWriter(sessions, tmp_path / "spool"), np.random.default_rng(1)
    for _ in range(120):
        features = np.zeros(len(NAMES), dtype=np.float32)
        features[USER_INPUT_COLUMN] = random.uniform(2, 5)
        tokens = round(float(np.exp(features[USER_INPUT_COLUMN])))
        given = {"model": "m", "max_tokens": 2_000, "features": features.tobytes()}
        writer.record(a_record(generation_tokens=tokens, **given))
    await writer.flush()
    return writer


async def test_waiting_shows_the_phases_and_why_a_version_was_accepted(
    lmaas: Run, url: str, history: HistoryWriter
) -> None:
    del history
    code, output, progress = await lmaas(
        "admin", "--url", url, "--key", ADMIN_KEY, "predictors", "train", "--wait"
    )
    assert code == 0, progress
    lines = output.splitlines()
    assert lines[0].split()[:3] == ["predictions", "rows", "pinball"]
    assert lines[1].startswith("this version")
    assert lines[-2:-1] == [
        "trained on 120 requests (120 complete, 0 cut off), judged on the newest 24 of them"
    ]
    assert lines[-1].startswith("accepted: version ")
    *phases, step = progress.splitlines()
    assert phases
    assert step.startswith("next: lmaas admin drift")


async def test_failed_training_gives_its_reason_and_exit_code_1(lmaas: Run, url: str) -> None:
    code, output, progress = await lmaas(
        "admin", "--url", url, "--key", ADMIN_KEY, "predictors", "train", "--wait"
    )
    assert (code, output) == (1, "")
    assert progress.splitlines()[-1] == (
        "lmaas: the training run failed: training needs at least 100 complete answers of model m "
        "from the last 90 days, found 0"
    )


async def test_interrupted_waiting_leaves_the_run_at_work(
    url: str, database: Database, sessions: Sessions
) -> None:
    async with unreadable_history(database):
        waiting = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from gateway.cli.main import main; main()"),
            *("admin", "--url", url, "--key", ADMIN_KEY, "predictors", "train", "--wait"),
            stdout=PIPE,
            stderr=PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert waiting.stderr is not None
        first = await waiting.stderr.readline()  # a phase: the run was started
        assert first
        waiting.send_signal(signal.SIGINT)
        output, errors = await waiting.communicate()
        assert (waiting.returncode, output) == (130, b"")
        (run,) = await Registry(sessions).runs(limit=2)
        assert run.state in {"queued", "running"}
        last = errors.decode().splitlines()[-1]
        assert last.startswith(f"training continues; lmaas admin predictors run {run.id} shows it")
