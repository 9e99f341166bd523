"""S2 live: the ratios of response times, their rows, targets and plot."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.report import rows_table
from benchmarks.harness.retry import Measured
from benchmarks.live.gateway_process import ServedRequests
from benchmarks.live.passes import PolicyRun
from benchmarks.s2.live_plots import draw
from benchmarks.s2.live_rows import LoadRun, rows_of, targets
from benchmarks.s2.live_run import LEARNED, LOADS, POLICIES, SEED, log_of, requests
from gateway.replay.workload.predictions import with_predictions
from gateway.replay.workload.workload import Workload

LIVE_S = np.linspace(1.0, 2.0, 200)


def a_pass(live_s: Any, replayed_s: Any) -> Measured[PolicyRun]:
    """A pass of requests that arrived at once, with perfect predictions."""
    count = len(live_s)
    workload = Workload.of(np.zeros(count), np.full(count, 5), np.arange(1, count + 1))
    workload = with_predictions(workload, "oracle", np.random.default_rng(1))
    none = np.zeros(count)
    replayed: Any = SimpleNamespace(finished_s=replayed_s, preemptions=none.astype(np.int32))
    served = ServedRequests(workload, none, none, live_s, preemptions=0)
    return Measured(PolicyRun(served, live_s, 1.0, replayed, replayed), CpuNoise(0, 0), 1)


def a_load(
    load: float = 0.9, live: float = 0.5, replayed: float = 0.5, tail: float = 1.0
) -> LoadRun:
    """Our policy is `live` and `replayed` times as slow as FCFS, its tail in replay still more."""
    ours_s = LIVE_S * replayed
    ours_s[-4:] *= tail
    passes = {"fcfs": a_pass(LIVE_S, 1.1 * LIVE_S), "lmaas": a_pass(live * LIVE_S, 1.1 * ours_s)}
    return LoadRun(load, 20.0, passes)


def missed(found: list[LoadRun]) -> list[str]:
    return [each.name for each in targets(rows_of(found), LOADS) if not each.met]


def test_ratios_compare_policies_on_the_same_side() -> None:
    found = a_load(live=0.5, replayed=0.45)
    assert found.live("mean") == pytest.approx(0.5)
    assert found.replayed("p99") == pytest.approx(0.45)  # a replay slower as a whole has no effect
    assert found.off("mean") == pytest.approx(-0.1)


def test_accurate_ratios_meet_every_target() -> None:
    assert missed([a_load(load, 0.5, 0.48) for load in LOADS]) == []


@pytest.mark.parametrize("replayed", [0.44, 0.56])
def test_inaccurate_mean_is_missed_on_either_side(replayed: float) -> None:
    found = [a_load(load, 0.5, replayed if load == LOADS[1] else 0.5) for load in LOADS]
    assert missed(found) == [f"load {LOADS[1]:g}: mean over FCFS's, replay off live, at most"]


def test_inaccurate_p99_is_missed() -> None:
    found = [a_load(load, tail=1.3 if load == LOADS[2] else 1.0) for load in LOADS]
    assert missed(found) == [f"load {LOADS[2]:g}: p99 over FCFS's, replay off live, at most"]


def test_load_that_was_not_run_is_missed() -> None:
    assert len(missed([a_load(load) for load in LOADS[:2]])) == 2


def test_rows_are_two_tables_by_load_and_by_pass() -> None:
    found = rows_of([a_load(load) for load in LOADS])
    assert len(found) == len(LOADS) * (1 + len(POLICIES))
    assert len(rows_table(found).split("\n\n")) == 2
    assert {row["τ"] for row in found if "policy" in row} == {1.0}


def test_log_is_of_other_requests_of_the_same_kind() -> None:
    log = list(log_of("app"))
    assert len(log) == LEARNED
    sent = {each.question for each in requests(500, SEED)}
    assert not sent & {line.input for line in log}


def test_plot_is_drawn(tmp_path: Path) -> None:
    draw([a_load(load) for load in LOADS], tmp_path)
    assert (tmp_path / "S2-live-ratios.png").stat().st_size > 1000
