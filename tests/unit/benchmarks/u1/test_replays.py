"""The replays of U1."""

import numpy as np
import pytest

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS
from benchmarks.u1.replays import paced, replayed_s
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options

COUNT = 60
ENGINE = EngineModel(
    cost=LinearCost(1e-2, 1e-4, 1e-3, 1e-6, 1e-7),
    shape=EngineShape(
        pages=512, page_tokens=16, step_tokens=2048, max_sequences=4, context_tokens=1024
    ),
)


@pytest.fixture
def workload() -> Workload:
    """Short and long answers in turn, faster than they are served."""
    tokens = np.where(np.arange(COUNT) % 3, 8, 120)
    made = Workload.of(np.arange(COUNT) * 0.05, np.full(COUNT, 20), tokens)
    return made.with_quantiles(np.tile(tokens[:, None], 6).astype(np.float32))


def test_engine_is_saturated_at_the_measured_rate(workload: Workload) -> None:
    engine = paced(ENGINE, workload, 3.0)
    assert saturated_rate_s(workload, engine, Options()) == pytest.approx(3.0, rel=0.02)


def test_oracle_gains_in_the_mean_where_requests_wait(workload: Workload) -> None:
    found = replayed_s(ENGINE, workload)
    assert set(found) == {FCFS, OURS, OUR_ORACLE}
    assert found[OUR_ORACLE].mean() < 0.8 * found[FCFS].mean()
