"""The load under which decisions are timed, and the verdicts on them."""

from statistics import mean
from typing import Any

import numpy as np
import pytest

from benchmarks.decision.load import DecisionLoad, TimedTurn
from benchmarks.decision.run import (
    MAX_GROWTH,
    POLICIES,
    RUNNING,
    WAITING,
    growth_of,
    row_of,
    targets,
)
from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.report import Row
from benchmarks.harness.retry import Measured


def turns(arrive_us: float, dispatch_us: float) -> Measured[list[TimedTurn]]:
    """Turns with one decision each."""
    turn = TimedTurn(0.0, arrive_us * 1e-6, [dispatch_us * 1e-6], 0.0, 8)
    return Measured([turn] * 10, CpuNoise(0, 0), 1)


def rows(growth: float = 2.0, shortest_us: float = 30.0, policies: Any = POLICIES) -> list[Row]:
    """All cells; a decision with the longest queue costs `growth` times that with the shortest."""
    return [
        row_of(policy, waiting, running, turns(10.0, total_us - 10.0))
        for policy in policies
        for running in RUNNING
        for waiting, total_us in zip(WAITING, np.linspace(1, growth, 4) * shortest_us, strict=True)
    ]


def missed(found: list[Row]) -> list[str]:
    return [verdict.name for verdict in targets(found) if not verdict.met]


@pytest.mark.parametrize("policy", POLICIES)
def test_load_keeps_the_numbers_of_queued_and_running_requests(policy: Any) -> None:
    load = DecisionLoad(policy, waiting=300, running=16)
    load.settle()
    found = load.turns(200)
    load.check()
    assert load.loop.waiting == 300
    assert mean(turn.running for turn in found) == pytest.approx(16, rel=0.4)
    assert mean(len(turn.calls_s) for turn in found) == pytest.approx(2, rel=0.3)
    assert all(sum(turn.calls_s) >= turn.refresh_s for turn in found)


def test_first_decision_of_a_turn_comes_with_the_arrival() -> None:
    found = [TimedTurn(9.0, 1e-5, [2e-5, 4e-5], 1e-5, 8)] * 10
    row = row_of("fcfs", 100, 8, Measured(found, CpuNoise(0, 0), 1))
    assert row["decision_mean_us"] == pytest.approx(35)
    assert row["decision_max_us"] == pytest.approx(40)
    assert (row["decisions_a_turn"], row["running"]) == (2, 8)
    assert row["turn_mean_us"] == pytest.approx(70)


def test_good_run_meets_every_target() -> None:
    assert missed(rows()) == []
    assert growth_of(rows())[0]["mean_growth"] == pytest.approx(2.0)


def test_cost_that_grows_too_fast_misses_its_target() -> None:
    assert len(missed(rows(growth=MAX_GROWTH + 0.1, shortest_us=10.0))) == len(POLICIES)


def test_decision_above_the_bound_misses_the_targets_of_mean_and_median() -> None:
    found = missed(rows(shortest_us=90.0))
    assert any("p50" in name for name in found)
    assert any("mean" in name for name in found)


def test_policy_that_was_not_measured_misses_its_targets() -> None:
    assert len(missed(rows(policies=["fcfs"]))) == 2 * 3
