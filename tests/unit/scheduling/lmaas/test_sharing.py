"""Fair shares between tenants under the default policy."""

from collections.abc import Callable
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.lmaas.cost import expected_length
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import MAX_PER_DISPATCH, OrderBounds
from gateway.scheduling.requests import QueuedRequest, service

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
GENERATED = 40
weights = st.lists(st.sampled_from([0.5, 1.0, 1.5, 3.0, 10.0]), min_size=2, max_size=4)


def a_policy(pages: int = 0) -> LmaasPolicy:
    """Without pages it dispatches one request at a time."""
    bounds = OrderBounds(max_delay_s=30.0)
    policy = LmaasPolicy("lmaas", admission=FuturePeak(2.0), bounds=bounds)
    policy.resize(pages, 8)
    return policy


def predicted(request: QueuedRequest) -> float:
    mean = expected_length(request.quantiles, request.max_tokens).mean
    return service(request.prompt_tokens, mean)


def served(policy: LmaasPolicy, now_s: float) -> QueuedRequest:
    dispatch = policy.dispatch(now_s)
    assert dispatch is not None
    (request,) = dispatch.requests
    policy.ended(request, GENERATED, now_s)
    return request


class BackloggedTenants:
    """Tenants with always more requests queued, and the service of each divided by its share."""

    def __init__(
        self, a_request: MakeRequest, shares: list[float], random: Random, pages: int
    ) -> None:
        self.policy = a_policy(pages)
        self.a_request, self.random = a_request, random
        self.share_of = {f"tenant {place}": share for place, share in enumerate(shares)}
        self.served = dict.fromkeys(self.share_of, 0.0)
        self.max_charge = 0.0  # of one request
        self.now_s = 0.0
        for tenant in [*self.share_of] * 2 * MAX_PER_DISPATCH:
            self.arrive(tenant)

    def arrive(self, tenant: str) -> None:
        size = self.random.randint(1, 100), self.random.randint(1, 100)
        share = self.share_of[tenant]
        self.policy.arrive(self.a_request(*size, arrived_s=self.now_s, tenant=tenant, share=share))

    def dispatch(self) -> None:
        self.now_s += 0.1
        found = self.policy.dispatch(self.now_s)
        assert found is not None
        for request in found.requests:
            generated = self.random.randint(1, 200)
            took = service(request.prompt_tokens, generated)
            self.served[request.tenant] += took / request.share
            self.max_charge = max(
                self.max_charge, took / request.share, predicted(request) / request.share
            )
            self.policy.ended(request, generated, self.now_s)
            self.arrive(request.tenant)

    @property
    def spread(self) -> float:
        return max(self.served.values()) - min(self.served.values())


@settings(max_examples=40)
@given(weights, st.integers(0, 10_000))
def test_backlogged_tenants_are_served_by_share_within_the_bound(
    a_request: MakeRequest, shares: list[float], seed: int
) -> None:
    backlog = BackloggedTenants(a_request, shares, Random(seed), pages=0)
    for _ in range(100):
        backlog.dispatch()
        assert backlog.spread <= 2 * backlog.max_charge
    counters = [backlog.policy.shares.counter(tenant) for tenant in backlog.share_of]
    assert counters == pytest.approx([*backlog.served.values()])
    backlog.policy.check()


@settings(max_examples=30)
@given(weights, st.integers(0, 10_000))
def test_bound_grows_with_the_requests_per_dispatch(
    a_request: MakeRequest, shares: list[float], seed: int
) -> None:
    backlog = BackloggedTenants(a_request, shares, Random(seed), pages=1_000)
    for _ in range(60):
        backlog.dispatch()
        assert backlog.spread <= 2 * MAX_PER_DISPATCH * backlog.max_charge


def test_charge_is_predicted_at_the_start_and_corrected_at_the_end(a_request: MakeRequest) -> None:
    policy, request = a_policy(), a_request(share=2.0)
    policy.arrive(request)
    policy.dispatch(1.0)
    assert policy.shares.counter("t") == pytest.approx(predicted(request) / 2)
    policy.ended(request, 7, 2.0)
    assert policy.shares.counter("t") == pytest.approx(service(50, 7) / 2)


def test_charge_is_multiplied_by_urgency(a_request: MakeRequest) -> None:
    policy, request = a_policy(), a_request(urgency=3.0)
    policy.arrive(request)
    policy.dispatch(1.0)
    assert policy.shares.counter("t") == pytest.approx(3 * predicted(request))
    policy.ended(request, 7, 2.0)
    assert policy.shares.counter("t") == pytest.approx(3 * service(50, 7))


def test_withdrawn_request_costs_nothing(a_request: MakeRequest) -> None:
    policy, request = a_policy(), a_request()
    policy.arrive(request)
    assert policy.withdraw(request.id)
    assert policy.shares.counter("t") == 0.0
    assert not list(policy.shares.lowest_first())


def test_returning_tenant_does_not_take_the_whole_engine(a_request: MakeRequest) -> None:
    policy = a_policy()
    for place in range(60):
        policy.arrive(a_request(arrived_s=float(place), tenant="always"))
    order = [serve(policy, 60.0) for _ in range(30)]
    for place in range(60):
        policy.arrive(a_request(arrived_s=60.0 + place, tenant="back"))
    order = [serve(policy, 130.0) for _ in range(40)]
    assert 18 <= order.count("back") <= 22


def serve(policy: LmaasPolicy, now_s: float) -> str:
    found = policy.dispatch(now_s)
    assert found is not None
    [request] = found.requests
    policy.ended(request, 40, now_s)
    return request.tenant


def test_newcomer_to_an_empty_queue_has_no_advantage(a_request: MakeRequest) -> None:
    policy = a_policy()
    for place in range(20):
        policy.arrive(a_request(arrived_s=float(place), tenant="busy"))
        serve(policy, float(place))
    policy.arrive(a_request(arrived_s=30.0, tenant="new"))
    assert policy.shares.counter("new") >= policy.shares.counter("busy")


def test_flood_of_one_tenant_does_not_delay_another(a_request: MakeRequest) -> None:
    policy = a_policy()
    for place in range(300):
        policy.arrive(a_request(5, 5, arrived_s=place / 100, tenant="flood"))
    for place in range(5):
        policy.arrive(a_request(5, 5, arrived_s=4.0, tenant="modest", request_id=f"m{place}"))
    order = [serve(policy, 5.0) for _ in range(12)]
    assert order.count("modest") == 5


def test_no_other_tenant_passes_what_does_not_fit(a_request: MakeRequest) -> None:
    policy, runs = a_policy(pages=100), a_request(400, 40, tenant="c")
    policy.arrive(runs)
    assert policy.dispatch(0.0) is not None
    for place in range(3):
        policy.arrive(a_request(600, 100, arrived_s=1.0, tenant="a large", request_id=f"l{place}"))
    policy.arrive(a_request(10, 5, arrived_s=1.0, tenant="b small"))
    assert policy.dispatch(2.0) is None  # memory is kept for the next request
    policy.ended(runs, 5, 3.0)
    assert [serve(policy, 3.0) for _ in range(4)] == ["a large", "b small", "a large", "a large"]


def test_tenant_beyond_a_soft_limit_goes_behind_lighter_ones_and_does_not_starve(
    a_request: MakeRequest,
) -> None:
    policy = a_policy()
    for _ in range(40):
        policy.arrive(a_request(tenant="beyond", surcharge=16.0))
        policy.arrive(a_request(tenant="light"))
    first = [served(policy, 0.0).tenant for _ in range(34)]
    assert first.count("beyond") == 2


def test_requests_beyond_a_soft_limit_go_behind_others_of_their_tenant(
    a_request: MakeRequest,
) -> None:
    policy = a_policy()
    for number in range(10):
        policy.arrive(a_request(urgency=1 / 16, surcharge=16.0, request_id=f"beyond{number}"))
    for number in range(10):
        policy.arrive(a_request(arrived_s=1.0, request_id=f"light{number}"))
    first = [served(policy, 1.0).id for _ in range(10)]
    assert all(name.startswith("light") for name in first)
    assert policy.shares.counter("t") == pytest.approx(len(first) * service(50, GENERATED))
