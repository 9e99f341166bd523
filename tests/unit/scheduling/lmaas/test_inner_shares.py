"""Fair shares between the apps of a tenant, and between the users of an app."""

from collections.abc import Callable
from itertools import combinations
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.lmaas.cost import expected_length
from gateway.scheduling.lmaas.inner_shares import ShareLevel
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import MAX_LEAD, MAX_PER_DISPATCH, OrderBounds
from gateway.scheduling.requests import QueuedRequest, service

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
Path: TypeAlias = tuple[str, str]  # app and user

weights = st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=1, max_size=3)


def a_policy(pages: int = 0, level: ShareLevel = "user") -> LmaasPolicy:
    """Without pages it dispatches one request at a time."""
    bounds = OrderBounds(max_delay_s=30.0)
    policy = LmaasPolicy("lmaas", admission=FuturePeak(2.0), bounds=bounds, share_level=level)
    policy.resize(pages, 8)
    return policy


def predicted(request: QueuedRequest) -> float:
    mean = expected_length(request.quantiles, request.max_tokens).mean
    return service(request.prompt_tokens, mean)


class Backlog:
    """One tenant whose users always have requests queued; what each app and user was served.

    Requests run until they are ended, in order of their start, so that several run at once.
    """

    def __init__(
        self, a_request: MakeRequest, shares: list[float], users: int, random: Random, pages: int
    ) -> None:
        self.policy = a_policy(pages)
        self.a_request, self.random = a_request, random
        self.share_of = {f"app {place}": share for place, share in enumerate(shares)}
        self.paths = [(app, f"user {user}") for app in self.share_of for user in range(users)]
        self.apps = dict.fromkeys(self.share_of, 0.0)
        self.users = dict.fromkeys(self.paths, 0.0)
        self.running: list[QueuedRequest] = []
        self.max_charge = 0.0  # of one request
        self.max_running = 0.0  # service, at one time
        self.now_s = 0.0
        for path in self.paths * (MAX_PER_DISPATCH + 2):
            self.arrive(path)

    def arrive(self, path: Path) -> None:
        app, user = path
        skew = 1 + self.paths.index(path)  # some users send longer requests
        self.policy.arrive(
            self.a_request(
                self.random.randint(1, 40 * skew),
                self.random.randint(1, 30 * skew),
                arrived_s=self.now_s,
                app=app,
                user=user,
                app_share=self.share_of[app],
            )
        )

    def start(self) -> bool:
        self.now_s += 0.1
        found = self.policy.dispatch(self.now_s)
        for request in found.requests if found else ():
            self.running.append(request)
            self._serve(request, predicted(request))
            self.arrive((request.app, request.user))
        self.max_running = max(self.max_running, sum(map(predicted, self.running)))
        return found is not None

    def end(self) -> None:
        request = self.running.pop(0)
        generated = self.random.randint(1, 200)
        self.policy.ended(request, generated, self.now_s)
        self._serve(request, service(request.prompt_tokens, generated) - predicted(request))
        self.max_charge = max(
            self.max_charge,
            self._weighed(request, service(request.prompt_tokens, generated)),
        )

    def _weighed(self, request: QueuedRequest, tokens: float) -> float:
        return tokens / min(request.app_share, 1.0)

    def _serve(self, request: QueuedRequest, tokens: float) -> None:
        self.apps[request.app] += tokens / request.app_share
        self.users[request.app, request.user] += tokens
        self.max_charge = max(self.max_charge, self._weighed(request, predicted(request)))

    @property
    def gap(self) -> float:
        """The largest difference between two apps, or two users of one app."""
        apps = [abs(a - b) for a, b in combinations(self.apps.values(), 2)]
        users = [
            abs(self.users[one] - self.users[other])
            for one, other in combinations(self.paths, 2)
            if one[0] == other[0]
        ]
        return max([*apps, *users], default=0.0)


@settings(max_examples=40)
@given(weights, st.integers(1, 3), st.integers(0, 10_000))
def test_backlogged_apps_and_users_are_served_within_the_bound(
    a_request: MakeRequest, shares: list[float], users: int, seed: int
) -> None:
    backlog = Backlog(a_request, shares, users, Random(seed), pages=0)
    for _ in range(120):
        assert backlog.start()  # work conserving: one starts whenever nothing runs
        backlog.end()
        assert backlog.gap <= (2 + MAX_LEAD) * backlog.max_charge
    backlog.policy.check()


@settings(max_examples=30)
@given(weights, st.integers(1, 3), st.integers(0, 10_000))
def test_bound_grows_with_what_runs_at_once(
    a_request: MakeRequest, shares: list[float], users: int, seed: int
) -> None:
    backlog = Backlog(a_request, shares, users, Random(seed), pages=400)
    for _ in range(60):
        while backlog.start():
            pass
        backlog.end()
        charges = 2 * MAX_PER_DISPATCH * backlog.max_charge
        assert backlog.gap <= MAX_LEAD * backlog.max_running + charges
    backlog.policy.check()


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(0, 40), st.booleans()),
        max_size=40,
    ),
    st.sampled_from(["app", "user"]),
)
def test_one_app_and_user_are_served_as_without_inner_shares(
    a_request: MakeRequest, drawn: list[tuple[int, int, int, bool]], level: ShareLevel
) -> None:
    policies = [a_policy(60, "tenant"), a_policy(60, level)]
    running: list[QueuedRequest] = []
    for place, (prompt, generation, after, end) in enumerate(drawn):
        now_s = float(place)
        request = a_request(
            prompt,
            generation,
            arrived_s=now_s,
            app="app",
            user="user",
            request_id=str(place),
            deadline_s=now_s + after if after > 20 else None,
        )
        found = []
        for policy in policies:
            if end and running:
                policy.ended(running[0], prompt, now_s)
            policy.arrive(request)
            policy.give_up(now_s)
            found.append(policy.dispatch(now_s))
        if end and running:
            running.pop(0)
        assert found[0] == found[1]
        running += found[0].requests if found[0] else ()


def starts(policy: LmaasPolicy, count: int, now_s: float) -> list[QueuedRequest]:
    found = []
    for _ in range(count):
        dispatch = policy.dispatch(now_s)
        assert dispatch is not None
        [request] = dispatch.requests
        policy.ended(request, 40, now_s)
        found.append(request)
    return found


@pytest.mark.parametrize("level", ["app", "user"])
def test_flood_of_an_app_or_user_does_not_delay_another(
    a_request: MakeRequest, level: ShareLevel
) -> None:
    policy = a_policy(level=level)
    for place in range(300):
        policy.arrive(a_request(5, 5, arrived_s=place / 100, **{level: "flood"}))
    for place in range(5):
        policy.arrive(a_request(50, 50, arrived_s=4.0, request_id=f"m{place}", **{level: "modest"}))
    assert [each.id for each in starts(policy, 70, 5.0)].count("m4") == 1
    policy.check()


def test_without_inner_shares_a_flood_goes_first(a_request: MakeRequest) -> None:
    policy = a_policy(level="tenant")
    for place in range(100):
        policy.arrive(a_request(5, 5, arrived_s=place / 100, app="flood"))
    policy.arrive(a_request(90, 90, arrived_s=4.0, app="modest"))
    assert {each.app for each in starts(policy, 90, 5.0)} == {"flood"}


def test_app_with_twice_the_share_gets_twice_the_service(a_request: MakeRequest) -> None:
    policy = a_policy()
    for _ in range(60):
        policy.arrive(a_request(app="heavy", app_share=2.0))
        policy.arrive(a_request(app="light"))
    assert [each.app for each in starts(policy, 60, 1.0)].count("heavy") == pytest.approx(40, abs=3)


def test_apps_of_different_tenants_do_not_share(a_request: MakeRequest) -> None:
    policy = a_policy()
    for _ in range(40):
        policy.arrive(a_request(tenant="one", app="mail"))
        policy.arrive(a_request(tenant="two", app="mail"))
        policy.arrive(a_request(tenant="two", app="chat"))
    assert [each.tenant for each in starts(policy, 40, 1.0)].count("one") == 20


def test_response_ratio_orders_users_that_have_not_exceeded_their_share(
    a_request: MakeRequest,
) -> None:
    policy = a_policy(pages=60)
    for place in range(40):
        size = 200 if place % 2 else 4
        policy.arrive(a_request(size, size, arrived_s=0.0, user=f"user {place}"))
    first = [policy.dispatch(0.1) for _ in range(3)]
    assert all(each.prompt_tokens == 4 for found in first if found for each in found.requests)
    policy.check()


@pytest.mark.parametrize("level", ["app", "user"])
def test_request_that_is_held_back_says_for_which_share(
    a_request: MakeRequest, level: ShareLevel
) -> None:
    policy = a_policy()
    for place in range(5):
        policy.arrive(a_request(request_id=f"a{place}", **{level: "a"}))
    policy.arrive(a_request(arrived_s=1.0, request_id="b", **{level: "b"}))
    assert policy.holding_back("a1") is None
    assert [each.id for each in starts(policy, 3, 1.0)] == ["a0", "a1", "a2"]
    assert [policy.holding_back(name) for name in ("a3", "a4", "b", "a0")] == [
        level,
        level,
        None,
        None,
    ]
    dispatch = policy.dispatch(1.0)
    assert dispatch is not None
    assert (dispatch.requests[0].id, dispatch.reason) == ("b", "share")
    assert policy.holding_back("a3") is None


def test_users_come_and_go_without_a_trace(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(app="a", user="stays"))
    for place in range(50):
        policy.arrive(a_request(app="a", user=f"guest {place}", request_id=f"g{place}"))
        assert policy.withdraw(f"g{place}")
    policy.check()
    assert len(policy) == 1
