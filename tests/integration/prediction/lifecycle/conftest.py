"""Gateways on one database that train its predictor."""

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest

from gateway.database.errors import Sessions
from gateway.prediction.lifecycle.auto_training import AutoTraining
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.serving.drift import DriftMonitor
from tests.integration.prediction.conftest import MODEL, MODEL_HASH


class TrainingGateway(NamedTuple):
    """The training runs of a gateway, and what starts them by schedule and drift."""

    runs: TrainingRuns
    automatic: AutoTraining
    drift: DriftMonitor


MakeGateway = Callable[..., TrainingGateway]


@pytest.fixture
async def a_gateway(sessions: Sessions, postgres_url: str) -> AsyncIterator[MakeGateway]:
    """Makes a gateway, which checks the schedule when a test calls it; not `enabled`: never."""
    made: list[TrainingGateway] = []

    def make(*, enabled: bool = True) -> TrainingGateway:
        runs = TrainingRuns(sessions, model=MODEL, model_hash=MODEL_HASH, database_url=postgres_url)
        drift = DriftMonitor()
        automatic = AutoTraining(
            sessions,
            runs,
            drift,
            model=MODEL,
            database_url=postgres_url,
            enabled=enabled,
            poll_s=3_600,
        )
        made.append(TrainingGateway(runs, automatic, drift))
        return made[-1]

    yield make
    for gateway in made:
        await gateway.automatic.close()
        await gateway.runs.close()
