"""The arrivals, requests and targets of P2."""

import asyncio
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
    NEW_APPS,
    LatencyQuantiles,
    LoadRun,
    arrival_times,
    measure_ticks,
    prediction_requests,
    with_new_instructions,
)
from benchmarks.p2.parts import BATCH_REQUESTS, TREE_HEADS, PartCost
from benchmarks.p2.run import (
    BUDGET_S,
    OFFERED_LOADS,
    OVERLOAD,
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
    waited_s=[0.002] * 1_000,
    sources=["model"] * 999 + ["prior"],
    tick_delays_s=[0.001] * 1_000,
    timed_out=1,
    unavailable=0,
    wall_s=10.0,
)


def measured(load_run: LoadRun) -> Measured[LoadRun]:
    return Measured(load_run, CpuNoise(0.0, 0.0), 1)


def found(
    load_run: LoadRun = GOOD, alone_us: float = 300.0, together_us: float = 50.0
) -> Measurements:
    """Measurements that meet every target, except where given."""
    return Measurements(
        load={OFFERED_LOADS[0]: [measured(load_run)], OVERLOAD: [measured(GOOD)]},
        costs=[
            PartCost(TREE_HEADS, 1, alone_us / 2, alone_us, alone_us / 2),
            PartCost(TREE_HEADS, BATCH_REQUESTS, together_us, together_us, together_us),
        ],
    )


def missed(measured: Measurements) -> list[str]:
    return [verdict.name for verdict in targets(measured) if not verdict.met]


@pytest.mark.parametrize("rate", [100, 3_000])
def test_arrivals_have_their_rate_and_are_the_same_every_time(rate: int) -> None:
    times = arrival_times(rate, 20.0, seed=3)
    assert len(times) == pytest.approx(20 * rate, rel=0.1)
    assert (np.diff(times) > 0).all()
    assert times[-1] < 20
    np.testing.assert_array_equal(times, arrival_times(rate, 20.0, seed=3))
    assert np.diff(times).std() == pytest.approx(1 / rate, rel=0.2)  # as of a Poisson process


def test_every_text_is_requested_once_and_some_apps_are_new() -> None:
    requests = prediction_requests([*LINES, *LINES])
    assert len({each.user_input for each in requests}) == len(requests) == len(LINES)
    assert [each.user_input for each in requests] != [line.input for line in LINES]
    new = [each for each in requests if each.app != app_id("a")]
    assert 0.02 < len(new) / len(requests) < 0.08
    assert len({each.app for each in new}) == len({each.instruction for each in new}) == NEW_APPS
    assert requests == prediction_requests([*LINES, *LINES])


def test_new_instructions_are_all_distinct() -> None:
    requests = with_new_instructions(prediction_requests(LINES))
    assert len({each.instruction for each in requests}) == len(requests)


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


def test_a_good_run_meets_every_target() -> None:
    assert missed(found()) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (found(replace(GOOD, waited_s=[0.006] * 1_000)), "p99 at 100/s"),
        (found(replace(GOOD, tick_delays_s=[0.001] * 900 + [0.006] * 100)), "tick is late"),
        (found(alone_us=600.0), "six heads, p99"),
        (found(together_us=70.0), "in batches"),
    ],
)
def test_each_bound_is_held(changed: Measurements, named: str) -> None:
    (name,) = missed(changed)
    assert named in name


def test_longest_wait_is_bounded_by_the_budget() -> None:
    slow = found()
    slow.load[OVERLOAD] = [measured(replace(GOOD, waited_s=[BUDGET_S + 0.02]))]
    (name,) = missed(slow)
    assert f"longest at {OVERLOAD.rate:,}/s" in name


def test_what_was_not_measured_is_missed() -> None:
    assert len(missed(Measurements())) == len(targets(Measurements()))


def test_rounds_are_pooled() -> None:
    both = pooled([measured(GOOD), measured(replace(GOOD, waited_s=[0.004] * 1_000))])
    assert both is not None
    assert len(both.waited_s) == 2_000
    assert both.timed_out == 2
    row = rows_of(Measurements(load={OFFERED_LOADS[0]: [measured(GOOD), measured(GOOD)]}))[0]
    assert (row["by model"], row["by history"], row["answered/s"]) == (1998, 2, 99.9)


def test_quality_without_a_cost_has_a_row() -> None:
    (row,) = rows_of(Measurements(vector_qualities=[VectorQuality(PRODUCT_VECTOR, 0.7, 0.55)]))
    assert (row["τ"], row["p50_us"]) == (0.7, None)


def test_texts_must_be_named() -> None:
    result = CliRunner().invoke(main, ["P2"], env={"LENGTH_DATA": ""})
    assert result.exit_code == 1
    assert "LENGTH_DATA" in result.output
