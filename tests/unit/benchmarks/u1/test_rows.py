"""The verdicts of U1."""

import numpy as np
import pytest
from msgspec import structs

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS
from benchmarks.u1.passes import SidePass
from benchmarks.u1.rows import DIRECT, Cell, rows_of, targets
from benchmarks.u1.run import joined
from gateway.replay.workload.workload import Workload

COUNT = 4


def a_side(mean_s: float) -> SidePass:
    at_s, tokens = np.arange(COUNT, dtype=float), np.full(COUNT, 10.0)
    return SidePass(at_s, np.full(COUNT, mean_s), tokens, np.array([1.0, 3.0]))


def a_cell(direct_s: float, ours_s: float, oracle: float) -> Cell:
    tokens = np.arange(10, 10 + COUNT)
    workload = Workload.of(np.arange(COUNT), tokens, tokens).with_quantiles(
        np.tile(tokens[:, None], 6).astype(np.float32)
    )
    sides = {DIRECT: a_side(direct_s), FCFS: a_side(direct_s), OURS: a_side(ours_s)}
    replayed = {
        FCFS: np.ones(COUNT),
        OURS: np.full(COUNT, 0.8),
        OUR_ORACLE: np.full(COUNT, oracle),
    }
    return Cell(8, 1.2, 0.5, sides, workload, replayed)


def test_share_is_that_of_the_oracles_gain() -> None:
    cell = a_cell(10.0, 7.0, 0.5)
    assert cell.gain_share == pytest.approx(0.6)
    (row,) = rows_of([cell])
    assert (row["mean lmaas"], row["queue lmaas"]) == (pytest.approx(0.7), 3.0)
    share, p99, tokens = targets([cell], [(8, 1.2)])
    assert (share.met, p99.met, tokens.met) == (True, True, True)


def test_without_a_gain_the_mean_must_not_suffer() -> None:
    mean, p99, _ = targets([a_cell(10.0, 10.5, 0.95)], [(8, 1.2)])
    assert "mean over vLLM's" in mean.name
    assert (mean.met, p99.met) == (False, True)


def test_cell_that_was_not_measured_is_missed() -> None:
    assert [each.met for each in targets([], [(32, 1.0)])] == [False] * 3


def test_saturated_rate_counts_what_still_runs_half() -> None:
    side = SidePass(np.zeros(6), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.ones(6), np.zeros(1))
    assert side.saturated_rate_s(2) == pytest.approx(5 / 4)


def test_part_that_is_not_measured_now_is_kept_in_its_place() -> None:
    kept = rows_of([a_cell(10.0, 7.0, 0.5)]), list(targets([a_cell(10.0, 7.0, 0.5)], [(8, 1.2)]))
    measured = structs.replace(a_cell(10.0, 9.0, 0.5), running=32)
    rows, bounds = joined(kept, [measured], [(32, 1.2)])
    assert [row["part"] for row in rows] == ["8 sequences", "32 sequences"]
    assert [bound.name.split(",")[0] for bound in bounds] == 3 * ["8 sequences"] + 3 * [
        "32 sequences"
    ]
