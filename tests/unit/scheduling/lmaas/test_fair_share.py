"""Virtual token counters against their bound and against a table of counters."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lmaas.fair_share import MAX_ABSENT, FairShare
from gateway.scheduling.requests import GENERATED_TOKEN_WEIGHT, service

weights = st.lists(st.floats(0.25, 8.0), min_size=2, max_size=5)
actions = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "charge", "settle"]),
        st.sampled_from("abcde"),
        st.integers(0, 50),
    ),
    max_size=80,
)


@given(weights, st.integers(0, 10_000), st.floats(0.5, 1.5))
def test_service_of_backlogged_tenants_stays_within_the_bound(
    drawn: list[float], seed: int, error: float
) -> None:
    random, shares = Random(seed), FairShare()
    share_of = {f"tenant {place}": share for place, share in enumerate(drawn)}
    served, most = dict.fromkeys(share_of, 0.0), 0.0
    for tenant in share_of:
        shares.enter(tenant)
    for _ in range(200):
        tenant = shares.lowest() or ""
        took = service(random.randint(1, 500), random.paretovariate(1.2))
        shares.charge(tenant, error * took / share_of[tenant])  # as predicted
        shares.charge(tenant, (1 - error) * took / share_of[tenant])  # corrected
        served[tenant] += took / share_of[tenant]
        most = max(most, took / share_of[tenant])
        assert max(served.values()) - min(served.values()) <= 2 * most
    assert [shares.counter(tenant) for tenant in served] == pytest.approx(list(served.values()))


@given(actions)
def test_lowest_first_is_the_order_of_a_full_sort(drawn: list[tuple[str, str, int]]) -> None:
    shares, counters, waiting, changed = FairShare(), {"a": 0.0}, {"a"}, {"a": -1}
    shares.enter("a")
    for number, (action, tenant, tokens) in enumerate(drawn):
        if action == "enter" and tenant not in waiting:
            floor = min(counters[other] for other in waiting)
            counters[tenant] = max(counters.get(tenant, 0.0), floor)
            waiting.add(tenant)
            changed[tenant] = number
            shares.enter(tenant)
        elif action == "leave" and waiting > {tenant}:  # one tenant always stays queued
            waiting.discard(tenant)
            shares.leave(tenant)
        elif action in ("charge", "settle") and tenant in waiting:
            charged = float(tokens if action == "charge" else -tokens)
            counters[tenant] += charged
            changed[tenant] = number
            shares.charge(tenant, charged)
        shares.check()
        order = sorted(waiting, key=lambda name: (counters[name], changed[name]))
        assert all(shares.lead(name) == counters[name] - counters[order[0]] for name in order)
        assert shares.lowest() == order[0]
        assert list(shares.lowest_first()) == order
        assert shares.lowest() == order[0]
        assert all(shares.counter(name) == counters[name] for name in counters)


def test_returning_tenant_gains_nothing_by_its_absence() -> None:
    shares = FairShare()
    shares.enter("away")
    shares.leave("away")
    for busy in ("busy", "busier"):
        shares.enter(busy)
    shares.charge("busy", 1_000.0)
    shares.charge("busier", 1_500.0)
    shares.enter("away")
    assert shares.counter("away") == 1_000.0
    assert shares.lowest_first() == ["busy", "away", "busier"]  # at equal counters, as they came


def test_tenant_that_is_ahead_stays_ahead_on_return() -> None:
    shares = FairShare()
    shares.enter("greedy")
    shares.enter("modest")
    shares.charge("greedy", 500.0)
    shares.leave("greedy")
    shares.enter("greedy")
    assert list(shares.lowest_first()) == ["modest", "greedy"]


def test_tenant_on_an_empty_queue_starts_at_the_counter_of_the_last_one() -> None:
    shares = FairShare()
    shares.enter("a")
    shares.charge("a", 300.0)
    shares.leave("a")
    shares.enter("b")
    assert shares.counter("b") == 300.0


def test_no_tenant_is_lowest_on_an_empty_queue() -> None:
    shares = FairShare()
    assert shares.lowest() is None
    shares.enter("a")
    shares.charge("a", 5.0)
    assert shares.lowest() == "a"
    shares.leave("a")
    shares.charge("a", 5.0)
    assert shares.lowest() is None
    shares.check()


def test_late_charge_of_the_last_tenant_counts_for_the_next_one() -> None:
    shares = FairShare()
    shares.enter("a")
    shares.leave("a")
    shares.charge("a", 300.0)
    shares.enter("b")
    assert shares.counter("b") == 300.0


def test_reading_the_order_changes_nothing() -> None:
    shares = FairShare()
    for tenant in "abcd":
        shares.enter(tenant)
    assert [shares.lowest_first() for _ in range(2)] == [["a", "b", "c", "d"]] * 2


def test_departed_tenants_do_not_accumulate() -> None:
    shares = FairShare()
    shares.enter("first")
    for _ in range(5_000):
        shares.enter("guest")
        shares.leave("guest")
    assert len(shares._order._heap) <= 100


def test_counters_of_those_away_are_bounded_and_the_highest_are_kept() -> None:
    shares = FairShare()
    shares.enter("stays")
    for place in range(5 * MAX_ABSENT):
        shares.enter(f"guest {place}")
        shares.charge(f"guest {place}", 10.0 + place % 7)
        shares.leave(f"guest {place}")
        shares.charge(f"guest {place}", -1.0)  # corrected when it ends
    shares.check()
    assert len(shares._counters) <= 2 * MAX_ABSENT + 1
    assert shares.counter("guest 6") == 15.0
    assert shares.counter("stays") == 0.0


def test_generated_token_weighs_more_than_one_of_the_prompt() -> None:
    assert service(100, 0) == 100
    assert service(100, 10) == 100 + GENERATED_TOKEN_WEIGHT * 10
