"""S0's requests, saturated throughput, calibrated cost and targets."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured
from benchmarks.live.gateway_process import EngineSteps, ServedRequests, environment
from benchmarks.live.passes import PolicyRun, calibrated_s, saturated_tokens_s
from benchmarks.live.plots import NAME, draw
from benchmarks.live.run import POLICIES, rows_of, targets
from benchmarks.live.traffic import ANSWER_TOKENS, plan
from gateway.replay.cost.model import EngineModel, LinearCost
from gateway.replay.replicas import replay_engines
from gateway.replay.routers import ONE_QUEUE
from gateway.replay.simulator import replay
from gateway.replay.workload.predictions import kendall_tau, with_predictions
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, build_policy
from tests.unit.benchmarks.calibrated_engine import calibrated_engine

COST = LinearCost(step_s=2e-3, prompt_token_s=5e-5, sequence_s=8e-5, kv_token_s=3e-7)
ENGINE = calibrated_engine(COST)


def served(response_s: Any, tokens: Any = 10, queued_s: Any = 0.0) -> ServedRequests:
    """Requests that arrived at once, with the first token at their start."""
    response_s = np.asarray(response_s, np.float64)
    count = len(response_s)
    queued = np.broadcast_to(np.asarray(queued_s, np.float64), count)
    workload = Workload.of(np.zeros(count), np.full(count, 5), np.full(count, tokens))
    return ServedRequests(workload, queued, queued, response_s, preemptions=2)


def a_policy_run(live_s: Any, replayed_s: Any) -> PolicyRun:
    replayed = SimpleNamespace(
        finished_s=np.asarray(replayed_s, np.float64),
        dispatched_s=np.zeros(len(replayed_s)),
        preemptions=np.array([1, 2]),
    )
    return PolicyRun(served(live_s), np.asarray(live_s), 1.2, replayed, replayed)  # type: ignore[arg-type]


def rows(factor: float, tail: float = 1.0) -> list[Any]:
    """Rows of a replay `factor` times as slow, its slowest requests `tail` times slower still."""
    live_s = np.linspace(1, 2, 200)
    replayed_s = live_s * factor
    replayed_s[-4:] *= tail
    policy_runs = {
        name: Measured(a_policy_run(live_s, replayed_s), CpuNoise(0, 0), 1) for name in POLICIES
    }
    return rows_of(ENGINE, a_policy_run(live_s, replayed_s), 3.0, policy_runs)


def missed(found: list[Any]) -> list[str]:
    return [verdict.name for verdict in targets(found) if not verdict.met]


def test_requests_are_a_reproducible_poisson_process() -> None:
    planned = plan(2000, seed=1, rate_s=20.0)
    assert planned == plan(2000, seed=1, rate_s=20.0)
    assert planned[-1].at_s == pytest.approx(100, rel=0.1)
    gaps = np.diff([each.at_s for each in planned])
    assert gaps.std() == pytest.approx(1 / 20, rel=0.15)  # as of a Poisson process
    assert {each.at_s for each in plan(9, seed=1)} == {0.0}


def test_rate_changes_only_the_times() -> None:
    slow, fast = plan(50, seed=4, rate_s=1.0), plan(50, seed=4, rate_s=2.0)
    assert [(a.question, a.tokens) for a in slow] == [(b.question, b.tokens) for b in fast]
    assert [a.at_s for a in slow] == pytest.approx([2 * b.at_s for b in fast])


def test_proportional_questions_say_how_long_their_answers_are() -> None:
    planned = plan(2000, seed=1, proportional=True)
    words = np.array([len(each.question.split()) for each in planned], np.float64)
    tokens = np.array([each.tokens for each in planned], np.float64)
    assert 0.6 < kendall_tau(words, tokens) < 0.9
    unrelated = plan(2000, seed=1)
    words = np.array([len(each.question.split()) for each in unrelated], np.float64)
    tokens = np.array([each.tokens for each in unrelated], np.float64)
    assert abs(kendall_tau(words, tokens)) < 0.05


def test_answers_have_the_planned_length_distribution() -> None:
    lengths = [each.tokens for each in plan(2000, seed=1)]
    assert (min(lengths) >= ANSWER_TOKENS[0], max(lengths) <= ANSWER_TOKENS[1]) == (True, True)
    assert np.median(lengths) == pytest.approx(110, rel=0.1)


def test_saturated_throughput_counts_tokens_while_requests_wait() -> None:
    # Two run for ten seconds while two wait; after that none waits.
    found = served([10, 10, 20, 20], tokens=100, queued_s=[0, 0, 10, 10])
    assert saturated_tokens_s(found) == pytest.approx(200 / 10)


def test_accurate_replay_meets_every_target() -> None:
    assert missed(rows(1.05)) == []
    assert missed(rows(0.95)) == []


@pytest.mark.parametrize("factor", [0.88, 1.12])
def test_inaccurate_mean_is_missed_on_either_side(factor: float) -> None:
    assert missed(rows(factor)) == [
        f"{policy}: mean response, replay off live, at most" for policy in POLICIES
    ]


def test_inaccurate_p99_is_missed() -> None:
    assert missed(rows(1.0, tail=1.3)) == [
        f"{policy}: p99 response, replay off live, at most" for policy in POLICIES
    ]


def test_policy_that_was_not_run_is_missed() -> None:
    found = [row for row in rows(1.0) if row.get("policy") != POLICIES[1]]
    assert all(POLICIES[1] in name for name in missed(found))
    assert len(missed(found)) == 2


def test_plot_is_drawn(tmp_path: Any) -> None:
    draw({name: a_policy_run([1.0, 2.0], [1.1, 2.1]) for name in POLICIES}, tmp_path)
    assert (tmp_path / f"{NAME}.png").stat().st_size > 1000


def test_commands_get_exactly_the_given_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAAS_POLICY", "sjf")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere")
    given = environment({"kv_tokens": 64})
    ours = {name: value for name, value in given.items() if name.startswith("LMAAS_")}
    assert ours == {"LMAAS_KV_TOKENS": "64"}
    assert "DATABASE_URL" not in given


def test_calibrated_cost_does_not_depend_on_batch_composition() -> None:
    cost = LinearCost(
        step_s=2e-3, prompt_token_s=5e-5, sequence_s=8e-5, kv_token_s=3e-7, prompt_read_s=1e-7
    )
    engine = EngineModel(cost=cost, shape=ENGINE.shape)
    sample_size = Workload.of(np.arange(20) / 50, np.arange(20, 40), np.arange(1, 21))
    workload = with_predictions(sample_size, "oracle", np.random.default_rng(1))
    one_by_one = build_policy("conservative-continuous", Options(fixed_batch=1))
    alone = replay(workload, one_by_one, engine)
    together = replay(workload, build_policy("fcfs", Options()), engine)
    assert alone.steps > together.steps
    for results in (alone, together):
        steps = EngineSteps(results.steps, results.busy_s, results.computed_tokens)
        assert results.busy_s == pytest.approx(calibrated_s(cost, workload, steps), rel=0.02)


def test_calibrated_cost_is_that_of_all_engines_together() -> None:
    engine = EngineModel(cost=COST, shape=ENGINE.shape)
    sample_size = Workload.of(np.arange(60) / 50, np.arange(20, 80), np.arange(1, 61))
    workload = with_predictions(sample_size, "oracle", np.random.default_rng(1))
    queue = partial(build_policy, "lmaas", Options())
    results = replay_engines([engine] * 2, workload, queue, ONE_QUEUE)
    steps = EngineSteps(results.steps, results.busy_s, results.computed_tokens)
    assert results.busy_s == pytest.approx(calibrated_s(COST, workload, steps), rel=0.02)


def test_steps_since_an_earlier_reading() -> None:
    assert EngineSteps(9, 2.5, 300).since(EngineSteps(4, 1.5, 100)) == EngineSteps(5, 1.0, 200)
