"""The arrivals, requests and targets of P2."""

import asyncio
import itertools
import time

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from benchmarks.__main__ import main
from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured
from benchmarks.p2.choices import PRODUCT_VECTOR, VectorQuality
from benchmarks.p2.load import (
    MAX_CHARACTERS,
    LatencyQuantiles,
    LoadRun,
    OfferedLoad,
    arrival_times,
    generation_requests,
    measure_ticks,
)
from benchmarks.p2.parts import BATCH_REQUESTS, TREE_HEADS, PartCost
from benchmarks.p2.run import (
    BURSTS,
    DEMO,
    STEADY,
    Measurements,
    pooled,
    rows_of,
    targets,
)
from gateway.evaluation.arrivals import app_id
from gateway.evaluation.corpus import CorpusLine

LINES = [
    CorpusLine(app="a", instruction="Answer.", input=f"text {number}", output="yes")
    for number in range(2_000)
]
GOOD = LoadRun(
    waited_s=[0.002] * 500 + [0.4] * 500,
    sources=["app"] * 501 + ["model", "model+embeddings", "model"] * 166 + ["model"],
    predicted_s=[0.004] * 1_000,
    tick_delays_s=[0.001] * 1_000,
)
BY_HISTORY = replace(GOOD, sources=["app"] * 506 + ["model"] * 494)


def measured(load_run: LoadRun) -> Measured[LoadRun]:
    return Measured(load_run, CpuNoise(0.0, 0.0), 1)


def found(
    load_run: LoadRun = GOOD, alone_us: float = 300.0, together_us: float = 50.0
) -> Measurements:
    """Measurements that meet every target, except where given."""
    return Measurements(
        load={(DEMO, STEADY): [measured(load_run)], ("other", BURSTS[-1]): [measured(GOOD)]},
        costs=[
            PartCost(TREE_HEADS, 1, alone_us / 2, alone_us, alone_us / 2),
            PartCost(TREE_HEADS, BATCH_REQUESTS, together_us, together_us, together_us),
        ],
    )


def missed(measured: Measurements) -> list[str]:
    return [verdict.name for verdict in targets(measured) if not verdict.met]


@pytest.mark.parametrize("rate", [100, 3_000])
def test_arrivals_have_their_rate_and_are_the_same_every_time(rate: int) -> None:
    load = OfferedLoad(rate=rate, seconds=20.0)
    times = arrival_times(load, seed=3)
    assert len(times) == pytest.approx(20 * rate, rel=0.1)
    assert (np.diff(times) > 0).all()
    assert times[-1] < 20
    np.testing.assert_array_equal(times, arrival_times(load, seed=3))
    assert np.diff(times).std() == pytest.approx(1 / rate, rel=0.2)  # as of a Poisson process


def test_a_burst_arrives_at_once() -> None:
    assert arrival_times(OfferedLoad(50), seed=3).tolist() == [0.0] * 50


def test_every_short_text_is_requested_once() -> None:
    long = replace(LINES[0], input="x" * MAX_CHARACTERS)
    requests = generation_requests([*LINES, *LINES, long], 24)
    texts = [each.user_input for each in requests]
    assert len(set(texts)) == len(texts) == len(LINES)
    assert texts != [line.input for line in LINES]
    assert {(each.caller.app_id, each.instruction) for each in requests} == {
        (app_id("a"), "Answer.")
    }
    assert texts == [each.user_input for each in generation_requests(LINES, 24)]


def test_waits_are_in_milliseconds() -> None:
    waits = LatencyQuantiles.of([number / 1000 for number in range(1, 1001)])
    assert waits.p50 == pytest.approx(500, abs=1)
    assert waits.p99 == pytest.approx(990, abs=1)
    assert waits.maximum == pytest.approx(1000)


async def test_a_stall_makes_every_tick_within_it_late() -> None:
    tick_delays_s: list[float] = []
    ticking = asyncio.create_task(measure_ticks(tick_delays_s))
    await asyncio.sleep(0.01)
    time.sleep(0.1)  # noqa: ASYNC251 - the stall
    await asyncio.sleep(0.02)
    ticking.cancel()
    assert max(tick_delays_s) > 0.08
    assert sum(late > 0.02 for late in tick_delays_s) > 50


async def test_short_turns_of_a_busy_loop_add_up_to_no_delay() -> None:
    loop, turns_s, tick_delays_s = asyncio.get_running_loop(), [time.perf_counter()], list[float]()
    ended = asyncio.Event()

    def work() -> None:
        turns_s.append(time.perf_counter())
        time.sleep(0.003)
        if len(turns_s) < 100:
            loop.call_soon(work)
        else:
            ended.set()

    ticking = asyncio.create_task(measure_ticks(tick_delays_s))
    loop.call_soon(work)
    await ended.wait()
    turns_s.append(time.perf_counter())
    ticking.cancel()
    longest_s = max(later - earlier for earlier, later in itertools.pairwise(turns_s))
    assert max(tick_delays_s) < 4 * longest_s  # the timer, and then its task, wait for a turn


def test_a_good_run_meets_every_target() -> None:
    assert missed(found()) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (found(BY_HISTORY), "by the model"),
        (found(replace(GOOD, tick_delays_s=[0.001] * 900 + [0.006] * 100)), "tick is late"),
        (found(alone_us=600.0), "six heads, p99"),
        (found(together_us=70.0), "in batches"),
    ],
)
def test_each_bound_is_held(changed: Measurements, named: str) -> None:
    (name,) = missed(changed)
    assert named in name


def test_every_load_counts_in_the_least_share() -> None:
    worse = found()
    worse.load["other", BURSTS[-1]] = [measured(BY_HISTORY)]
    (name,) = missed(worse)
    assert "by the model" in name


def test_starts_without_a_wait_may_go_by_history() -> None:
    at_once = replace(GOOD, waited_s=[0.002] * 1_000)
    assert at_once.by_model is None
    assert missed(found(at_once)) == []


def test_what_was_not_measured_is_missed() -> None:
    assert len(missed(Measurements())) == len(targets(Measurements()))


def test_rounds_are_pooled() -> None:
    both = pooled([measured(GOOD), measured(replace(GOOD, unstarted=2))])
    assert both is not None
    assert (len(both.waited_s), both.unstarted) == (2_000, 2)
    row = rows_of(Measurements(load={(DEMO, STEADY): [measured(GOOD), measured(GOOD)]}))[0]
    assert (row["by model"], row["waited ≥ 100 ms"], row["of these by model"]) == (998, 1000, 998)
    assert (row["load"], row["by model %"]) == ("100/s", 99.8)


def test_quality_without_a_cost_has_a_row() -> None:
    (row,) = rows_of(Measurements(vector_qualities=[VectorQuality(PRODUCT_VECTOR, 0.7, 0.55)]))
    assert (row["τ"], row["p50_us"]) == (0.7, None)


def test_texts_must_be_named() -> None:
    result = CliRunner().invoke(main, ["P2"], env={"LENGTH_DATA": ""})
    assert result.exit_code == 1
    assert "LENGTH_DATA" in result.output
