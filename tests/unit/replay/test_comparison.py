"""Comparisons of policies."""

from dataclasses import replace
from functools import partial
from math import isnan
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from gateway.errors import InvalidRequest
from gateway.replay.comparison import (
    CONTENDERS,
    Case,
    Contender,
    ReplayRun,
    compare,
    map_in_processes,
    measures_of,
)
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.cost.profiles import NAMES, profile
from gateway.replay.measure.confidence import confidence_interval
from gateway.replay.plan import PolicyComparison, PolicyRow, ReplayPlan, compare_policies
from gateway.replay.replicas import replay_engines
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, build_policy

TIGHT = EngineModel(
    cost=LinearCost(step_s=0.01, prompt_token_s=1e-5, sequence_s=1e-4, kv_token_s=1e-7),
    shape=EngineShape(pages=200, page_tokens=16, context_tokens=4_096),
)


def requests(count: int = 300, seed: int = 1, **columns: Any) -> Workload:
    random = np.random.default_rng(seed)
    given = {
        "arrived_s": random.exponential(size=count).cumsum(),
        "prompt_tokens": random.integers(20, 200, size=count),
        "generation_tokens": np.clip(80 * np.exp(random.standard_normal(count)), 1, 900).astype(
            int
        ),
    }
    return Workload.of(**{**given, **columns})


def compared(workload: Workload | None = None, **changes: Any) -> PolicyComparison:
    given = {"scenario": Scenario(source=workload or requests()), "engine": TIGHT} | changes
    return compare_policies(ReplayPlan(**given), lambda _: None)


def a_case(key: str, *policies: str) -> Case[str]:
    workload = requests(60).with_quantiles(np.full((60, 6), 100, np.float32))
    contenders = [Contender.of(name) for name in policies]
    return Case(
        key=key, seed=0, requests=partial(replace, workload), engine=TIGHT, contenders=contenders
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_come_in_order_of_cases_with_fcfs_first(jobs: int) -> None:
    cases = [a_case("b", "sjf", "fcfs", "oracle-sjf"), a_case("a", "hrrn")]
    found = list(compare(cases, measures_of, jobs))
    assert [(cell.key, list(cell.measured)) for cell in found] == [
        ("b", ["fcfs", "sjf", "oracle-sjf"]),
        ("a", ["hrrn"]),
    ]
    assert not any(isnan(each.extra_delay_s) for each in found[0].measured.values())
    assert isnan(found[1].measured["hrrn"].extra_delay_s)


def test_hook_measures_each_run_before_the_next_begins() -> None:
    runs: list[ReplayRun] = []

    def hook(run: ReplayRun) -> int:
        runs.append(run)
        return len(runs)

    (cell,) = compare([a_case("a", "fcfs", "sjf")], hook)
    assert cell.measured == {"fcfs": 1, "sjf": 2}
    assert runs[0].workload is runs[1].workload
    assert runs[1].fcfs_dispatched_s is runs[0].results.dispatched_s


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_has_a_line_for_each_run(jobs: int) -> None:
    plan = ReplayPlan(
        scenario=Scenario(source=requests(60)), engine=TIGHT, policies=("sjf", "fcfs"), loads=(0.5,)
    )
    lines: list[str] = []
    compare_policies(plan, lines.append, jobs)
    assert [line.partition(":")[0] for line in lines] == [
        "fcfs, saturated",
        "fcfs at load 0.5, seed 1",
        "sjf at load 0.5, seed 1",
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_map_in_processes_keeps_the_order(jobs: int) -> None:
    assert list(map_in_processes(jobs, pow, [2, 3, 1], [3, 2, 1])) == [8, 9, 1]


@pytest.fixture(scope="module")
def found() -> PolicyComparison:
    """Two policies at two loads, shared by all tests of their results."""
    return compared(policies=("fcfs", "sjf"), loads=(0.5, 0.9))


@pytest.fixture(scope="module")
def alone() -> PolicyRow:
    """The second policy at the second load, compared alone."""
    return compared(policies=("sjf",), loads=(0.9,)).rows[0]


def test_every_policy_has_a_row_at_every_load(found: PolicyComparison) -> None:
    assert [(row.load, row.policy) for row in found.rows] == [
        (0.5, "fcfs"),
        (0.5, "sjf"),
        (0.9, "fcfs"),
        (0.9, "sjf"),
    ]
    assert set(found.time_series) == {(row.policy, row.load) for row in found.rows}


def test_load_is_a_share_of_the_saturated_rate(found: PolicyComparison) -> None:
    assert found.saturated_rate_s is not None
    assert found.rows[0].rate_s == pytest.approx(0.5 * found.saturated_rate_s)


def test_unscaled_arrivals_have_no_load() -> None:
    workload = requests()
    found = compared(workload, policies=("fcfs",))
    assert found.saturated_rate_s is None
    assert (found.rows[0].load, found.rows[0].rate_s) == (None, workload.rate_s)


def test_sjf_is_faster_with_true_lengths() -> None:
    found = compared(policies=("fcfs", "sjf", "oracle-sjf"), loads=(1.0,), seeds=2)
    fcfs, sjf, oracle = (row.measures["mean_s"].mean for row in found.rows)
    assert oracle < sjf < fcfs


def test_every_policy_sees_the_same_requests(found: PolicyComparison, alone: PolicyRow) -> None:
    together = found.rows[3]
    for name in ("mean_s", "p99_s", "tokens_s"):
        assert together.measures[name] == alone.measures[name] or isnan(alone.measures[name].low)
        assert together.measures[name].mean == alone.measures[name].mean


def test_delay_behind_fcfs_is_known_where_fcfs_ran(
    found: PolicyComparison, alone: PolicyRow
) -> None:
    fcfs, sjf = found.rows[2:]
    assert fcfs.measures["extra_delay_s"].mean == 0
    assert sjf.measures["extra_delay_s"].mean > 0
    assert isnan(alone.measures["extra_delay_s"].mean)


def test_several_processes_give_the_same_results() -> None:
    plan = ReplayPlan(
        scenario=Scenario(source=requests(60)),
        engine=TIGHT,
        policies=("fcfs", "sjf"),
        loads=(0.5, 0.9),
    )
    one, two = (compare_policies(plan, lambda _: None, jobs) for jobs in (1, 2))
    for alone, shared in zip(one.rows, two.rows, strict=True):
        assert alone.measures["mean_s"].mean == shared.measures["mean_s"].mean


def test_seeds_give_an_interval(found: PolicyComparison) -> None:
    several = compared(policies=("fcfs",), seeds=3, loads=(0.9,)).rows[0].measures["mean_s"]
    one = found.rows[2].measures["mean_s"]
    assert several.low <= several.mean <= several.high
    assert isnan(one.low)


def test_interval_is_that_of_students_t() -> None:
    values = [3.0, 4.0, 8.0]
    found = confidence_interval(values)
    half = student.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert (found.mean, found.half_width) == pytest.approx((5, half))


def test_one_engine_is_slower_than_two() -> None:
    two, one = (
        compared(policies=("fcfs",), speeds=(1.0,) * engines).rows[0].measures["mean_s"].mean
        for engines in (2, 1)
    )
    assert one > two


def test_engines_get_requests_in_turn() -> None:
    workload = requests(101).with_quantiles(np.full((101, 6), 100, np.float32))
    policy = partial(build_policy, "fcfs", Options())
    both = replay_engines([TIGHT] * 2, workload, policy, "round-robin")
    odd = replay_engines([TIGHT], workload.take(slice(1, None, 2)), policy, "round-robin")
    assert both.finished_s[1::2].tolist() == odd.finished_s.tolist()
    assert len(both.finished_s) == 101
    assert both.computed_tokens > odd.computed_tokens
    assert len(both.time_s) == len(both.waiting) == len(both.kv_pages)


def test_saturated_rate_is_the_throughput_in_overload() -> None:
    found = compared(requests(2_000), policies=("fcfs",), loads=(1.4,))
    assert found.rows[0].measures["requests_s"].mean == pytest.approx(
        found.saturated_rate_s, rel=0.05
    )


def test_saturated_rate_ignores_deadlines() -> None:
    workload = requests(200).with_quantiles(np.full((200, 6), 100, np.float32))
    hurried = requests(200, deadline_s=0.001).with_quantiles(np.full((200, 6), 100, np.float32))
    rates = [saturated_rate_s(each, TIGHT, Options()) for each in (workload, hurried)]
    assert rates[0] == rates[1]


def test_sample_has_the_given_size_and_comes_from_the_source() -> None:
    source = synthetic_lengths()
    scenario = Scenario(source=source, arrivals="poisson", sample_size=500)
    one, two = (scenario.workload(3.0, seed) for seed in (0, 1))
    one.check()
    assert len(one) == 500
    assert set(one.prompt_tokens) <= set(source.prompt_tokens)
    assert (one.prompt_tokens != two.prompt_tokens).any()
    assert one.rate_s == pytest.approx(3)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_contender_is_a_policy_with_predicted_or_true_lengths(contender: str) -> None:
    found = Contender.of(contender)
    oracle = {"oracle": "oracle-", "recorded": ""}[found.predictor]
    assert contender == found.name == oracle + found.policy


def test_unknown_policy_is_named() -> None:
    with pytest.raises(InvalidRequest, match="no policy oracle-best; known are lmaas"):
        Contender.of("oracle-best")


@pytest.mark.parametrize("name", NAMES)
def test_published_profile_leaves_memory_for_kv(name: str) -> None:
    engine = profile(name)
    assert engine.shape.pages * engine.shape.page_tokens >= 4_000
    token_s = engine.cost.seconds(0, 1, 100.0)
    assert 0.002 < token_s < 0.05
