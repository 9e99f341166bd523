"""A revised prediction ranks a waiting request as if it had arrived with it, under every policy."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy
from gateway.scheduling.requests import Quantiles, QueuedRequest

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
PAGES, PAGE = 60, 8
OPTIONS = Options(max_delay_s=20.0, fixed_batch=4)
SPREAD = (0.4, 0.6, 1.0, 1.5, 2.2, 3.0)


class Arrival(Struct, frozen=True):
    """A request with a first and a revised median; what is drawn decides what else it has."""

    prompt: int
    first: int
    revised: int
    kind: int


arrivals = st.lists(
    st.builds(
        Arrival,
        prompt=st.integers(1, 200),
        first=st.integers(1, 60),
        revised=st.one_of(st.none(), st.integers(1, 60)).map(lambda each: each or 0),
        kind=st.integers(0, 11),
    ),
    min_size=1,
    max_size=16,
)


def quantiles_of(median: float, place: int) -> Quantiles:
    """Those of a median; each place has its own, so that no two requests tie."""
    middle = median + (place + 1) / 1_000
    low, lower, half, upper, high, highest = (min(max(middle * s, 1.0), 200.0) for s in SPREAD)
    return low, lower, half, upper, high, highest


def requests_of(
    drawn: Sequence[Arrival], a_request: MakeRequest, *, revised: bool, began_s: float = 0.0
) -> list[QueuedRequest]:
    """The requests with their first prediction, or with the revised one where there is one."""
    found = []
    for place, each in enumerate(drawn):
        arrived_s = began_s + 0.37 * place
        median = each.revised if revised and each.revised else each.first
        found.append(
            a_request(
                each.prompt,
                quantiles=quantiles_of(median, place),
                arrived_s=arrived_s,
                request_id=f"{began_s:.0f}-{place}",
                tenant="ab"[each.kind % 2],
                urgency=(1.0, 2.0)[each.kind % 3 == 0],
                deadline_s=arrived_s + each.kind if each.kind % 4 == 1 else None,
                start_by_s=arrived_s + 9.0 if each.kind == 2 else None,
                lane="batch" if each.kind == 3 else "interactive",
            )
        )
    return found


def a_loop(name: PolicyName) -> ControlLoop:
    loop = ControlLoop(build_policy(name, OPTIONS))
    loop.resize(PAGES, PAGE, None)
    return loop


def decisions(loop: ControlLoop, now_s: float) -> list[tuple[list[str], str]]:
    """All decisions until nothing waits, each batch ending before the next decision."""
    found = []
    while loop.waiting:
        given_up = loop.give_up(now_s)
        if given_up:
            found.append((sorted(request.id for request in given_up), "given up"))
        dispatch = loop.dispatch(now_s, list)
        if dispatch is not None:
            found.append(([request.id for request in dispatch.requests], dispatch.reason))
            for request in dispatch.requests:
                loop.ended(request, 7, now_s)
        now_s += 2.5
    return found


def revise(loop: ControlLoop, requests: Sequence[QueuedRequest], drawn: Sequence[Arrival]) -> None:
    """Revise in groups, out of order, the last one twice: only the newest prediction counts."""
    revised = [request for request, each in zip(requests, drawn, strict=True) if each.revised]
    detour = [replace(each, quantiles=quantiles_of(100.0, 0)) for each in revised[-1:]]
    for group in (detour, revised[1::2], revised[::2]):
        loop.revise(group)


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=25)
@given(drawn=arrivals, later=arrivals, withdrawn=st.sets(st.integers(0, 15), max_size=2))
def test_revised_request_is_ranked_as_if_it_had_arrived_so(
    a_request: MakeRequest,
    name: PolicyName,
    drawn: list[Arrival],
    later: list[Arrival],
    withdrawn: set[int],
) -> None:
    loop, oracle = a_loop(name), a_loop(name)
    requests = requests_of(drawn, a_request, revised=True)
    for first, request in zip(requests_of(drawn, a_request, revised=False), requests, strict=True):
        loop.arrive(first)
        oracle.arrive(request)
    revise(loop, requests, drawn)
    loop.policy.check()
    for place in withdrawn:
        if place < len(requests):
            loop.withdraw(requests[place].id)
            oracle.withdraw(requests[place].id)
    for request in requests_of(later, a_request, revised=False, began_s=40.0):
        loop.arrive(request)
        oracle.arrive(request)
    loop.policy.check()
    assert decisions(loop, 52.0) == decisions(oracle, 52.0)


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=20)
@given(drawn=arrivals)
def test_revision_after_others_have_waited_and_run(
    a_request: MakeRequest, name: PolicyName, drawn: list[Arrival]
) -> None:
    similar = [  # serving times within a factor of two, so no credit is bounded by the mean run
        Arrival(40, 30 + each.first // 4, each.revised and 30 + each.revised // 4, each.kind)
        for each in drawn
    ]
    loop, oracle = a_loop(name), a_loop(name)
    earlier = requests_of(similar, a_request, revised=False)
    for each in (loop, oracle):
        for request in earlier:
            each.arrive(request)
        decisions(each, 15.0)
    requests = requests_of(similar, a_request, revised=True, began_s=80.0)
    first = requests_of(similar, a_request, revised=False, began_s=80.0)
    for before, after in zip(first, requests, strict=True):
        loop.arrive(before)
        oracle.arrive(after)
    revise(loop, requests, similar)
    loop.policy.check()
    assert decisions(loop, 92.0) == decisions(oracle, 92.0)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_started_request_is_charged_and_held_by_its_revised_prediction(
    a_request: MakeRequest, name: PolicyName
) -> None:
    loop = a_loop(name)
    request = a_request(40, quantiles=quantiles_of(4, 0))
    loop.arrive(request)
    assert loop.dispatch(1.0, list) is not None
    revised = replace(request, quantiles=quantiles_of(60, 0))
    loop.revise([], [revised])
    assert loop.due
    assert loop.policy.admission.stale
    running = [revised.started()]
    loop.refresh(running)
    assert not loop.policy.admission.stale
    if name == "lmaas":
        low, high = (loop.policy, a_loop(name).policy)
        high.arrive(revised)
        high.dispatch(1.0)
        assert low.shares.counter("t") == pytest.approx(high.shares.counter("t"))  # type: ignore[attr-defined]
        for each in (low, high):
            each.ended(revised, 9, 2.0)
        assert low.shares.counter("t") == pytest.approx(40 + 2 * 9)  # type: ignore[attr-defined]


def test_lines_of_jobs_are_revised_in_their_lane(a_request: MakeRequest) -> None:
    loop = a_loop("lmaas")
    lines = [
        a_request(40, quantiles=quantiles_of(4, 0), lane="batch", request_id=each, arrived_s=place)
        for place, each in enumerate("ab")
    ]
    for line in lines:
        loop.arrive(line)
    revised = [replace(line, quantiles=quantiles_of(60, 0)) for line in lines]
    loop.revise(revised)
    loop.batch_lane.queue.check()
    found = loop.dispatch(1.0, list)
    assert found is not None
    assert list(found.requests) == revised
    loop.revise([], lines)  # started ones: their charge is corrected, then settled
    for line in lines:
        loop.ended(line, 9, 2.0)
    assert loop.batch_lane.queue.shares.counter("t") == pytest.approx(2 * (40 + 2 * 9))
