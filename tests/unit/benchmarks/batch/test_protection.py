"""B3: its traffic and its job, and how passes are compared."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.b3.job import ANSWER as JOB_ANSWER
from benchmarks.b3.job import DEGREE, PREFIX, job
from benchmarks.b3.passes import Pass
from benchmarks.b3.percentiles import percentile_ratio
from benchmarks.b3.rows import ALONE, JOB, SHIPPED, UNPROTECTED, Passes, rows_of, targets
from benchmarks.b3.streams import Streamed
from benchmarks.b3.traffic import ANSWER, PROMPT, bodies, shapes
from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured


def test_arrivals_and_lengths_are_the_same_whatever_the_words() -> None:
    planned = shapes(400, 3, 8.0)
    assert planned == shapes(400, 3, 8.0) != shapes(400, 4, 8.0)
    assert planned[-1].at_s == pytest.approx(50, rel=0.2)
    assert all(PROMPT[0] <= each.prompt <= PROMPT[1] for each in planned)
    assert all(ANSWER[0] <= each.answer <= ANSWER[1] for each in planned)
    one, other = bodies(planned, "m", 1), bodies(planned, "m", 2)
    assert [each.body["max_tokens"] for each in one] == [each.answer for each in planned]
    assert [len(each.body["messages"][0]["content"].split()) for each in one] == [
        each.prompt for each in planned
    ]
    assert one[0].body["messages"] != other[0].body["messages"]


def test_lines_of_a_group_share_its_prefix_alone() -> None:
    lines = job(64, 5, "m")
    prompts = [line["body"]["prompt"].split() for line in lines]
    prefixes = Counter(" ".join(prompt[:PREFIX]) for prompt in prompts)
    assert list(prefixes.values()) == [DEGREE] * 4
    assert len({prompt[PREFIX] for prompt in prompts}) > 50
    assert all(JOB_ANSWER[0] <= line["body"]["max_tokens"] <= JOB_ANSWER[1] for line in lines)


def test_a_ratio_of_percentiles_is_of_the_same_requests() -> None:
    rng = np.random.default_rng(1)
    without = [rng.lognormal(size=200) for _ in range(3)]
    found = percentile_ratio([1.2 * times for times in without], without, 0.99)
    assert found is not None
    assert (found.median, found.low, found.high) == pytest.approx((1.2, 1.2, 1.2))
    assert percentile_ratio([], without, 0.99) is None


def a_pass(first_s: float, job_tokens: float) -> Measured[Pass]:
    answers = [Streamed(first_s, first_s + 0.1, 11), Streamed(first_s, first_s, 1)]
    counted = {"steps": 100.0, "steps_s": 2.0, "preemptions": 1.0}
    return Measured(Pass(answers, 10.0, job_tokens, counted), CpuNoise(0.0, 0.0), 1)


def test_first_tokens_are_compared_and_the_job_with_itself_alone() -> None:
    job_alone = Measured(
        Pass([], 10.0, 4_000.0, {"steps": 10.0, "steps_s": 1.0, "preemptions": 0.0}),
        CpuNoise(0.0, 0.0),
        1,
    )
    passes: Passes = {
        ALONE: [a_pass(0.1, 0.0)],
        SHIPPED: [a_pass(0.105, 1_000.0)],
        UNPROTECTED: [a_pass(0.5, 2_000.0)],
        JOB: [job_alone],
    }
    (judged,) = targets(passes)
    assert judged.met
    assert judged.value == pytest.approx(1.05)
    rows = {row["pass"]: row for row in rows_of(passes, 8.0) if "pass" in row}
    assert rows[ALONE]["token_p50_ms"] == pytest.approx(10)
    assert rows[SHIPPED]["makespan/alone"] == 4.0
    assert rows[UNPROTECTED]["makespan/alone"] == 2.0
    assert rows[JOB]["first_p99_ms"] is None
    assert not targets({})[0].met
