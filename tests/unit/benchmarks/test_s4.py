"""The tenants of S4, and how evenly they are served."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.live.tenant import Tenant
from benchmarks.s4.live_run import HONEST_APP, LYING_APP, requests_of
from benchmarks.s4.live_run import PHASES as LIVE_PHASES
from benchmarks.s4.run import fairness_measures, response_of_others
from benchmarks.s4.service import backlogged, bound, largest_gap
from benchmarks.s4.traffic import (
    EQUAL,
    FLOOD,
    FLOODED,
    FLOODED_APP,
    FLOODED_USER,
    LYING,
    ONE_TENANT,
    PHASES,
    TENANTS,
    TWO_APPS,
    TWO_USERS,
    UNDER_PREDICTED,
    compared,
    phase,
    together,
)
from gateway.replay.comparison import Case, Contender, ReplayRun, replay_contender
from gateway.replay.cost.profiles import DEFAULT_PROFILE, profile
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.replay.workload.workload import Workload

REQUESTS = 20
SCENARIO = Scenario(source=synthetic_lengths(), arrivals="poisson", sample_size=REQUESTS)


def of_others(workload: Workload) -> list[tuple[int, int]]:
    others = workload.take(workload.tenant != 0)
    lengths = zip(others.prompt_tokens.tolist(), others.generation_tokens.tolist(), strict=True)
    return sorted(lengths)


def test_other_tenants_have_the_same_requests_in_each_phase() -> None:
    made = {name: phase(name, SCENARIO, 2.0, seed=1) for name in PHASES}
    assert of_others(made[EQUAL]) == of_others(made[FLOODED]) == of_others(made[LYING])
    assert np.bincount(made[EQUAL].tenant).tolist() == [REQUESTS] * TENANTS
    assert np.bincount(made[FLOODED].tenant)[0] == FLOOD * REQUESTS
    assert len(np.unique(made[ONE_TENANT].tenant)) == 1
    for name in (TWO_APPS, FLOODED_APP, TWO_USERS, FLOODED_USER):
        assert of_others(made[name]) == of_others(made[EQUAL])
    first = made[LYING].tenant == 0
    lied = made[EQUAL].quantiles[first] / made[LYING].quantiles[first]
    assert lied.max() == pytest.approx(UNDER_PREDICTED)


def test_the_second_app_or_user_has_the_same_requests_whatever_the_first_sends() -> None:
    for level, equal, flooded in (
        ("app", TWO_APPS, FLOODED_APP),
        ("user", TWO_USERS, FLOODED_USER),
    ):
        one, other = (phase(name, SCENARIO, 2.0, seed=1) for name in (equal, flooded))
        assert compared(one)[0] == compared(other)[0] == level
        whose, flood = compared(one)[1], compared(other)[1]
        assert np.bincount(whose + 1).tolist() == [4 * REQUESTS, REQUESTS // 2, REQUESTS // 2]
        assert np.bincount(flood + 1)[1] == FLOOD * REQUESTS // 2
        assert one.generation_tokens[whose == 1].tolist() == (
            other.generation_tokens[flood == 1].tolist()
        )


def served(workload: Workload, first_s: list[float], finished_s: list[float]) -> ReplayResults:
    """A run in which requests start when they have their first token."""
    results = replay_contender(Contender.of("fcfs"), workload, profile(DEFAULT_PROFILE))
    for name, times in (("dispatched_s", first_s), ("first_token_s", first_s)):
        getattr(results, name)[:] = times
    results.finished_s[:] = finished_s
    return results


def two_tenants() -> Workload:
    """Three requests each of 10 prompt tokens and 5 answer tokens, all at the start."""
    one = Workload.of(np.zeros(3), [10] * 3, [5] * 3, quantiles=np.full((3, 6), 5.0))
    return together([one, one])


def test_gap_is_the_largest_difference_over_any_time() -> None:
    workload = two_tenants()
    in_turns = served(workload, [0, 2, 4, 1, 3, 5], [1, 3, 5, 2, 4, 6])
    assert largest_gap(workload, in_turns) == pytest.approx(20, abs=0.2)  # one request
    after = served(workload, [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    assert largest_gap(workload, after) == pytest.approx(40, abs=0.2)  # until the first has none
    assert backlogged(workload, after) == (0.0, 2.0)


def test_bound_is_twice_the_memory_or_the_longest_prompt() -> None:
    workload = two_tenants()
    assert bound(workload, pool_tokens=100) == 400
    assert bound(workload, pool_tokens=1) == 20


def test_measures_are_of_the_tenants_that_did_nothing() -> None:
    workload = two_tenants()
    results = served(workload, [0, 2, 4, 1, 3, 5], [1, 3, 5, 2, 4, 7])
    assert response_of_others(workload, results.finished_s).tolist() == [2, 4, 7]
    alone = replace(workload, tenant=np.zeros_like(workload.tenant))
    assert len(response_of_others(alone, results.finished_s)) == 6
    engine = profile(DEFAULT_PROFILE)
    case = Case(key="", seed=0, requests=two_tenants, engine=engine, contenders=[])
    contender = Contender.of("fcfs")
    found = fairness_measures(ReplayRun(case, contender, workload, results, None))
    assert (found.others_mean_s, found.tokens_s) == (pytest.approx(13 / 3), pytest.approx(90 / 7))
    assert fairness_measures(ReplayRun(case, contender, alone, results, None)).gap is None


def test_live_others_send_the_same_in_each_phase() -> None:
    tenants = [
        Tenant(f"{n}", {}, {app: f"{n} {app}" for app in (HONEST_APP, LYING_APP)}) for n in range(5)
    ]
    made = {name: requests_of(name, tenants, 2) for name in LIVE_PHASES}
    assert [len(made[name]) for name in LIVE_PHASES] == [10, 10, 28, 10]
    assert made[EQUAL][2:] == made[FLOODED][20:] == made[LYING][2:]
    assert {each.key for each in made[LYING][:2]} == {f"0 {LYING_APP}"}
    assert {each.key for each in made[ONE_TENANT]} == {f"0 {HONEST_APP}"}
