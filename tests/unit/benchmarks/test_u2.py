"""U2: its fleets, and what it compares."""

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
)
from benchmarks.u2.rows import over_best, rows_of, targets
from gateway.replay.comparison import compare, measures_of
from gateway.replay.cost.profiles import DEFAULT_PROFILE, profile
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.scheduling.policy import Options


def a_cell(fleet: Fleet, requests: int = 60) -> Cell:
    workload = synthetic_lengths().take(slice(300))
    engine = engine_for(workload, profile(DEFAULT_PROFILE))
    fitting = workload.within(engine.shape.max_sequence_tokens)
    whole = Scenario(source=fitting, arrivals="poisson", sample_size=requests)
    rate_s = saturated_rate_s(whole.workload(1.0, 0), engine, Options())
    [found] = compare([case(fleet, whole, engine, rate_s)], measures_of)
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
    assert over_best(cell, "fcfs", "mean") == cell.measured[OURS].mean_s / best
    rows = list(rows_of([cell]))
    assert len(rows) == 2 + len(others(TRACE)) * len(POLICIES)
    verdicts = {each.name: each for each in targets([cell])}
    assert len(verdicts) == 2 * 2 * 2 * 2 + 1
    found = verdicts["trace, one slow engine: mean over the best router's with fcfs, at most"]
    assert found.value == over_best(cell, "fcfs", "mean")
