"""The cost of sequences in host memory, learned from an engine of known cost."""

from random import Random

import pytest

from engine.protocol import EngineInfo, HostCost, HostWork, KvState, Step, StepWork
from gateway.generation.insight.host_cost import HostCostLearner
from gateway.generation.insight.step_cost import StepCostLearner
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.host_lane import HostCosts, HostLane, RowCost
from gateway.scheduling.requests import HostPlacement
from tests.unit.generation.insight.test_step_cost import a_step, seconds, some_work

DEVICE = LinearStepTime(4e-3, 2e-4, 5e-4, 2e-7, 3e-8)
SLOWDOWN = 0.2
EXACT, SPECULATIVE = RowCost(6e-3, 3e-3, 4e-6), RowCost(9e-3, 5e-3, 3e-7)


def an_info(**costs: HostCost) -> EngineInfo:
    kv = KvState(10, 10, 16)
    named = {name.replace("_", "-"): cost for name, cost in costs.items()}
    return EngineInfo("e", "m", 512, 9, [4], kv, "cpu", "float32", host_costs=named)  # type: ignore[arg-type]


MEASURED = an_info(
    host_exact=HostCost(2e-3, 1e-3, 1e-5), host_speculative=HostCost(2e-3, 1e-3, 0.0)
)


def the_device() -> StepCostLearner:
    random, learner = Random(1), StepCostLearner()
    for _ in range(1000):
        work = some_work(random)
        learner.observe(a_step(work, seconds(DEVICE, work)))
    return learner


def a_host_step(random: Random) -> Step:
    """A step of the known engine."""
    exact, speculative = random.choice([(1, 0), (0, 1), (2, 3), (5, 0), (0, 4)])
    on_device = some_work(random)
    own = exact + speculative
    work = StepWork(
        on_device.prompt_tokens,
        on_device.prompt_reads,
        on_device.sequences + own,
        on_device.kv_tokens,
    )
    host = HostWork(
        work,
        exact,
        exact * random.randint(100, 4000),
        speculative,
        speculative * random.randint(100, 4000),
    )
    took_s = (1 + SLOWDOWN) * seconds(DEVICE, on_device)
    took_s += EXACT.step_s * bool(exact) + EXACT.row_s * exact
    took_s += SPECULATIVE.step_s * bool(speculative) + SPECULATIVE.row_s * speculative
    took_s += EXACT.token_s * host.exact_tokens
    took_s += SPECULATIVE.token_s * host.speculative_tokens
    return Step(1, KvState(10, 10, 16), {}, took_s=took_s, host_work=host)


def priced(learner: HostCostLearner, lane: HostLane) -> HostCosts:
    learner.price()
    assert lane.costs is not None
    return lane.costs


def test_an_engine_of_the_modelled_form_is_found() -> None:
    random, lane, device = Random(2), HostLane(), the_device()
    learner = HostCostLearner(lane)
    learner.opened(MEASURED)
    for _ in range(2000):
        learner.observe(a_host_step(random), device)
    found = priced(learner, lane)
    assert found.slowdown == pytest.approx(SLOWDOWN, abs=0.04)
    assert found.fetch_s == pytest.approx(EXACT.token_s, rel=0.1)
    expected: dict[HostPlacement, RowCost] = {
        "host-exact": EXACT,
        "host-speculative": SPECULATIVE,
    }
    for place, true in expected.items():
        row = found.rows[place]
        assert row.step_s == pytest.approx(true.step_s, rel=0.2)
        for tokens in (200, 1000, 4000):
            assert row.seconds(tokens) == pytest.approx(true.seconds(tokens), rel=0.1)


def test_the_engine_s_own_measurement_counts_before_any_step() -> None:
    lane = HostLane()
    learner = HostCostLearner(lane)
    learner.opened(MEASURED)
    assert lane.costs is None
    found = priced(learner, lane)
    assert found.slowdown == 0
    assert found.rows["host-exact"] == RowCost(2e-3, 1e-3, 1e-5)
    assert found.rows["host-speculative"].seconds(500) == pytest.approx(1e-3, rel=0.2)


def test_a_placement_that_was_not_measured_has_no_cost() -> None:
    lane = HostLane()
    learner = HostCostLearner(lane)
    learner.opened(an_info(host_exact=HostCost(2e-3, 1e-3, 1e-5)))
    assert list(priced(learner, lane).rows) == ["host-exact"]
    learner.opened(an_info())
    assert lane.costs is None
    learner.price()
    assert lane.costs is None


def test_nothing_is_learned_before_the_cost_of_other_steps_is_known() -> None:
    random, lane = Random(3), HostLane()
    learner = HostCostLearner(lane)
    learner.opened(MEASURED)
    for _ in range(50):
        learner.observe(a_host_step(random), StepCostLearner())
    assert priced(learner, lane).fetch_s == 1e-5
