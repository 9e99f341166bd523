"""U2: its fleets, and what it compares."""

import numpy as np
import pytest

from benchmarks.harness.contenders import OUR_ORACLE, OURS
from benchmarks.u2.cells import (
    LOAD,
    POLICIES,
    TEXTS,
    TRACE,
    Cell,
    Fleet,
    case,
    contenders,
    engine_for,
    fleets,
    others,
    scenario,
)
from benchmarks.u2.live_run import least_share
from benchmarks.u2.rows import over, over_best, rows_of, targets
from gateway.replay.comparison import compare, measures_of
from gateway.replay.cost.profiles import DEFAULT_PROFILE, profile
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.scheduling.policy import Options


def a_cell(fleet: Fleet, seed: int = 0, requests: int = 60) -> Cell:
    workload = synthetic_lengths().take(slice(300))
    engine = engine_for(workload, profile(DEFAULT_PROFILE))
    fitting = workload.within(engine.shape.max_sequence_tokens)
    whole = Scenario(source=fitting, arrivals="poisson", sample_size=requests)
    rate_s = saturated_rate_s(whole.workload(1.0, seed), engine, Options())
    [found] = compare([case(fleet, whole, engine, rate_s, seed)], measures_of)
    assert found.rate_s < LOAD * rate_s * sum(fleet.speeds) * 1.01
    return found


def test_fleets_are_equal_or_have_one_slow_engine() -> None:
    assert len(fleets("")) == 16
    assert [fleet.speeds for fleet in fleets("trace/2/")] == [(1.0, 1.0), (1.0, 0.5)]


def test_each_router_is_compared_with_both_orders() -> None:
    for source in (TRACE, TEXTS):
        names = [contender.name for contender in contenders(source)]
        assert names[:2] == [OURS, OUR_ORACLE]
        assert len(set(names)) == 2 + len(others(source)) * len(POLICIES)


def test_ours_is_over_the_best_router_of_an_order() -> None:
    cell = a_cell(Fleet(TRACE, 2, slow=True))
    best = min(cell.measured[f"{router}, fcfs"].mean_s for router in others(TRACE))
    assert over_best([cell], "fcfs", "mean").mean == pytest.approx(
        cell.measured[OURS].mean_s / best
    )


def test_rows_and_targets_are_over_the_seeds() -> None:
    fleet = Fleet(TRACE, 2, slow=True)
    seeds = [a_cell(fleet, seed) for seed in range(3)]
    assert len({cell.measured[OURS].mean_s for cell in seeds}) == 3
    rows = list(rows_of(seeds))
    assert len(rows) == 2 + len(others(TRACE)) * len(POLICIES)
    [row] = [row for row in rows if (row["router"], row["order"]) == ("least-requests", "fcfs")]
    each = [over([cell], "least-requests, fcfs", "mean").mean for cell in seeds]
    assert row["seeds"] == 3
    assert min(each) <= row["lmaas/mean"] <= max(each)
    assert row["mean low"] < row["lmaas/mean"] < row["mean high"]
    verdicts = {each.name: each for each in targets(seeds)}
    assert len(verdicts) == 2 * 2 * 2 * 2 + 1
    found = verdicts["trace, one slow engine: mean over the best router's with fcfs, at most"]
    assert found.value == max(row["lmaas/mean"] for row in rows if row["order"] == "fcfs")


def test_seeds_have_other_requests() -> None:
    lengths = synthetic_lengths().take(slice(300)).with_arrivals(np.arange(300.0))
    workload = lengths.with_quantiles(np.tile(np.arange(1.0, 7.0, dtype=np.float32), (300, 1)))
    for source in (TRACE, TEXTS):
        parts = [scenario(source, workload, 100, seed, 3).workload(1.0, seed) for seed in (0, 1)]
        tokens = [part.generation_tokens.tolist() for part in parts]
        assert tokens[0] != tokens[1]


def test_least_share_counts_an_engine_that_did_nothing() -> None:
    assert least_share({0: 100.0, 1: 40.0}, {0: 160.0, 1: 60.0}) == pytest.approx(0.25)
    assert least_share({}, {0: 60.0}) == 0.0
