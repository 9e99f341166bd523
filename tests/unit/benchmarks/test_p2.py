"""The arrivals, questions and verdicts of P2."""

import asyncio
import time

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from benchmarks.__main__ import main
from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured
from benchmarks.p2.choices import OURS, Worth
from benchmarks.p2.load import (
    NEW_APPS,
    Passage,
    Waits,
    arrivals,
    prediction_requests,
    tick,
    with_new_instructions,
)
from benchmarks.p2.parts import BATCH, HEADS, Cost
from benchmarks.p2.run import BUDGET_S, OFFERED, OVERLOAD, Found, pooled, rows_of, targets
from gateway.evaluation.arrivals import app_id
from gateway.evaluation.corpus import CorpusLine

LINES = [
    CorpusLine(app="a", instruction="Answer.", input=f"text {number}", output="yes")
    for number in range(2_000)
]
GOOD = Passage(
    waited_s=[0.002] * 1_000,
    sources=["model"] * 999 + ["prior"],
    late_s=[0.001] * 1_000,
    timed_out=1,
    unavailable=0,
    wall_s=10.0,
)


def measured(passage: Passage) -> Measured[Passage]:
    return Measured(passage, CpuNoise(0.0, 0.0), 1)


def found(passage: Passage = GOOD, alone_us: float = 300.0, together_us: float = 50.0) -> Found:
    """Meets every target but for what is given."""
    return Found(
        load={OFFERED[0]: [measured(passage)], OVERLOAD: [measured(GOOD)]},
        costs=[
            Cost(HEADS, 1, alone_us / 2, alone_us, alone_us / 2),
            Cost(HEADS, BATCH, together_us, together_us, together_us),
        ],
    )


def missed(measured: Found) -> list[str]:
    return [verdict.name for verdict in targets(measured) if not verdict.met]


@pytest.mark.parametrize("rate", [100, 3_000])
def test_arrivals_have_their_rate_and_are_the_same_every_time(rate: int) -> None:
    times = arrivals(rate, 20.0, seed=3)
    assert len(times) == pytest.approx(20 * rate, rel=0.1)
    assert (np.diff(times) > 0).all()
    assert times[-1] < 20
    np.testing.assert_array_equal(times, arrivals(rate, 20.0, seed=3))
    assert np.diff(times).std() == pytest.approx(1 / rate, rel=0.2)  # as of a Poisson process


def test_every_text_is_asked_once_and_some_apps_are_new() -> None:
    asked = prediction_requests([*LINES, *LINES])
    assert len({each.user_input for each in asked}) == len(asked) == len(LINES)
    assert [each.user_input for each in asked] != [line.input for line in LINES]
    new = [each for each in asked if each.app != app_id("a")]
    assert 0.02 < len(new) / len(asked) < 0.08
    assert len({each.app for each in new}) == len({each.instruction for each in new}) == NEW_APPS
    assert asked == prediction_requests([*LINES, *LINES])


def test_new_instructions_are_all_distinct() -> None:
    asked = with_new_instructions(prediction_requests(LINES))
    assert len({each.instruction for each in asked}) == len(asked)


def test_waits_are_in_milliseconds() -> None:
    waits = Waits.of([number / 1000 for number in range(1, 1001)])
    assert waits.p50 == pytest.approx(500, abs=1)
    assert waits.p99 == pytest.approx(990, abs=1)
    assert waits.longest == pytest.approx(1000)


async def test_a_stall_makes_every_tick_within_it_late() -> None:
    late_s: list[float] = []
    ticking = asyncio.create_task(tick(late_s))
    await asyncio.sleep(0.01)
    time.sleep(0.1)  # noqa: ASYNC251 - the stall
    await asyncio.sleep(0.02)
    ticking.cancel()
    assert max(late_s) > 0.08
    assert sum(late > 0.02 for late in late_s) > 50


def test_a_good_run_meets_every_target() -> None:
    assert missed(found()) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (found(replace(GOOD, waited_s=[0.006] * 1_000)), "p99 at 100/s"),
        (found(replace(GOOD, late_s=[0.001] * 900 + [0.006] * 100)), "tick is late"),
        (found(alone_us=600.0), "six heads, p99"),
        (found(together_us=70.0), "in batches"),
    ],
)
def test_each_bound_is_held(changed: Found, named: str) -> None:
    (name,) = missed(changed)
    assert named in name


def test_nobody_may_wait_much_longer_than_the_budget() -> None:
    slow = found()
    slow.load[OVERLOAD] = [measured(replace(GOOD, waited_s=[BUDGET_S + 0.02]))]
    (name,) = missed(slow)
    assert f"longest at {OVERLOAD.rate:,}/s" in name


def test_what_was_not_measured_is_missed() -> None:
    assert len(missed(Found())) == len(targets(Found()))


def test_rounds_are_told_as_one() -> None:
    both = pooled([measured(GOOD), measured(replace(GOOD, waited_s=[0.004] * 1_000))])
    assert both is not None
    assert len(both.waited_s) == 2_000
    assert both.timed_out == 2
    row = rows_of(Found(load={OFFERED[0]: [measured(GOOD), measured(GOOD)]}))[0]
    assert (row["by model"], row["by history"], row["answered/s"]) == (1998, 2, 99.9)


def test_a_choice_without_its_cost_is_shown_all_the_same() -> None:
    (row,) = rows_of(Found(worths=[Worth(OURS, 0.7, 0.55)]))
    assert (row["τ"], row["p50_us"]) == (0.7, None)


def test_texts_must_be_named() -> None:
    result = CliRunner().invoke(main, ["P2"], env={"LENGTH_DATA": ""})
    assert result.exit_code == 1
    assert "LENGTH_DATA" in result.output
