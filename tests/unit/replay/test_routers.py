"""Several engines in a replay: which gets which request, and one queue in front of all."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.measure.results import ReplayResults
from gateway.replay.replicas import replay_engines
from gateway.replay.routers import ONE_QUEUE, ROUTER_NAMES, RouterName
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, PolicyName, build_policy
from gateway.scheduling.requests import SharedPrefix

ENGINE = EngineModel(
    cost=LinearCost(step_s=0.01, prompt_token_s=1e-4, sequence_s=1e-3, kv_token_s=1e-7),
    shape=EngineShape(pages=200, page_tokens=16, context_tokens=4_096),
)
SLOW = ENGINE.at_speed(0.5)


def requests(count: int = 300, gap_s: float = 0.05, **columns: Any) -> Workload:
    random = np.random.default_rng(5)
    lengths = np.clip(60 * np.exp(random.standard_normal(count)), 1, 600).astype(int)
    spread = np.exp(0.5 * np.array([-1.28, -0.67, 0.0, 0.67, 1.28, 1.64]))
    given = {
        "arrived_s": random.exponential(gap_s, count).cumsum(),
        "prompt_tokens": random.integers(20, 200, size=count),
        "generation_tokens": lengths,
    }
    found = Workload.of(**{**given, **columns})
    return found.with_quantiles((lengths[:, None] * spread).astype(np.float32))


def run(
    workload: Workload,
    engines: list[EngineModel],
    router: RouterName,
    policy: PolicyName = "lmaas",
) -> ReplayResults:
    return replay_engines(engines, workload, partial(build_policy, policy, Options()), router)


def mean_s(workload: Workload, results: ReplayResults) -> float:
    return float((results.finished_s - workload.arrived_s).mean())


@pytest.mark.parametrize("router", ROUTER_NAMES)
def test_every_request_is_answered_whatever_the_router(router: RouterName) -> None:
    workload = requests()
    results = run(workload, [ENGINE, ENGINE, SLOW], router)
    assert not np.isnan(results.finished_s).any()
    assert results.computed_tokens >= workload.generation_tokens.sum() - len(workload)
    assert len(results.time_s) == len(results.waiting) == len(results.kv_pages)


@pytest.mark.parametrize("router", ROUTER_NAMES)
def test_one_engine_needs_no_router(router: RouterName) -> None:
    workload = requests(100)
    alone = run(workload, [ENGINE], "round-robin")
    assert run(workload, [ENGINE], router).finished_s.tolist() == alone.finished_s.tolist()


def test_predicted_end_beats_other_routers_with_a_slow_engine() -> None:
    workload = requests(150, gap_s=0.03)
    found = {
        router: mean_s(workload, run(workload, [ENGINE, SLOW], router)) for router in ROUTER_NAMES
    }
    assert found[ONE_QUEUE] == min(found.values()), found


@pytest.mark.parametrize("router", [ONE_QUEUE, "round-robin"])
def test_wrong_predictions_are_trusted_without_a_floor(router: RouterName) -> None:
    workload = requests(600, gap_s=0.015)
    wrong = workload.with_quantiles(np.random.default_rng(1).permutation(workload.quantiles))
    queue = partial(build_policy, "lmaas", Options())
    found = [
        replay_engines([ENGINE] * 2, wrong, queue, router, tau_floor=floor).finished_s.tolist()
        for floor in (None, -1.0, 0.2)
    ]
    assert found[0] == found[1] != found[2]


def test_fewest_requests_are_counted_at_each_arrival() -> None:
    lengths = np.array([400, 10, 10, 10])
    workload = requests(
        4, arrived_s=[0.0, 1.0, 2.0, 3.0], generation_tokens=lengths, prompt_tokens=20
    )
    results = run(workload, [ENGINE, ENGINE], "least-requests")
    alone_s = results.finished_s[1] - 1.0
    assert results.finished_s[1:] - workload.arrived_s[1:] == pytest.approx([alone_s] * 3)


def test_fewest_tokens_count_prompts_that_wait() -> None:
    workload = requests(
        3, arrived_s=[0.0, 0.0, 0.0], generation_tokens=[50] * 3, prompt_tokens=[2_000, 100, 100]
    )
    least_tokens = run(workload, [ENGINE, ENGINE], "least-tokens")
    round_robin = run(workload, [ENGINE, ENGINE], "round-robin")
    assert least_tokens.finished_s[2] < round_robin.finished_s[2]


def test_requests_with_a_prefix_follow_it() -> None:
    prefixes = [SharedPrefix(str(number), 640) for number in range(40)]
    chosen = np.random.default_rng(3).integers(40, size=200)
    workload = requests(200, gap_s=0.3, prompt_tokens=700, prefix=chosen, prefixes=prefixes)
    roomy = structs.replace(ENGINE, shape=structs.replace(ENGINE.shape, pages=1_000))
    spread = run(workload, [roomy] * 4, "round-robin")
    for router in ("prefix-affinity", ONE_QUEUE):
        found = run(workload, [roomy] * 4, router)
        assert found.reused_tokens.sum() > 1.2 * spread.reused_tokens.sum() > 0


@pytest.mark.parametrize("policy", ["fcfs", "hrrn", "sjf", "s3", "lmaas"])
def test_every_policy_for_continuous_batching_has_one_queue(policy: PolicyName) -> None:
    workload = requests(150)
    results = run(workload, [ENGINE, SLOW], ONE_QUEUE, policy)
    assert not np.isnan(results.finished_s).any()
    assert results.decisions > 0
