"""The queue of host memory: order, room, and that all start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.requests import QueuedRequest

PAGES, PAGE_TOKENS = 10, 16


def request(
    name: str, arrived_s: float = 0.0, tokens: float = 20.0, **more: object
) -> QueuedRequest:
    made = QueuedRequest(name, "tenant", 30, (tokens,) * 6, 100, arrived_s)
    return replace(made, **more)


def lane() -> HostLane:
    made = HostLane()
    made.resize(PAGES, PAGE_TOKENS)
    return made


arrivals = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 100), st.integers(1, 30)), min_size=1, max_size=12
)


@given(arrivals)
def test_all_start_and_never_hold_more_than_there_is(arrivals: list[tuple[int, int, int]]) -> None:
    queue, ends, started = lane(), dict[str, int](), set[str]()
    for now in range(1000):
        for name in [name for name, end in ends.items() if end == now]:
            queue.ended(name)
            del ends[name]
        for number, (at, tokens, _) in enumerate(arrivals):
            if at == now:
                queue.arrive(request(str(number), now, tokens))
        while (dispatch := queue.dispatch(now)) is not None:
            [taken] = dispatch.requests
            assert taken.id not in started
            assert dispatch.ratio >= 1
            started.add(taken.id)
            ends[taken.id] = now + arrivals[int(taken.id)][2]
        assert queue.held_pages <= PAGES or len(ends) == 1
    assert len(started) == len(arrivals)
    assert not len(queue)


@given(arrivals, st.integers(20, 60))
def test_the_highest_response_ratio_is_next(arrivals: list[tuple[int, int, int]], now: int) -> None:
    queue = lane()
    requests = {str(n): request(str(n), at, tokens) for n, (at, tokens, _) in enumerate(arrivals)}
    for each in requests.values():
        queue.arrive(each)
    dispatch = queue.dispatch(now)
    assert dispatch is not None

    def ratio(each: QueuedRequest) -> float:
        work = each.median + 0.05 * each.prompt_tokens
        return 1 + (now - each.arrived_s) / work

    assert dispatch.ratio == pytest.approx(max(map(ratio, requests.values())))


def test_those_that_are_late_leave() -> None:
    queue = lane()
    queue.arrive(request("soon", start_by_s=5.0))
    queue.arrive(request("due", deadline_s=7.0))
    queue.arrive(request("patient"))
    assert [each.id for each in queue.give_up(6.0)] == ["soon"]
    assert [each.id for each in queue.give_up(8.0)] == ["due"]
    assert len(queue) == 1


def test_a_longer_prediction_of_what_runs_holds_more() -> None:
    queue = lane()
    queue.arrive(request("first"))
    queue.arrive(request("second"))
    assert queue.dispatch(0.0) is not None
    before = queue.held_pages
    queue.revise([request("first", tokens=90.0), request("unknown")])
    assert queue.held_pages == before + 4
    queue.ended("first")
    assert queue.dispatch(0.0) is not None


def test_a_tenant_with_many_requests_leaves_others_their_share() -> None:
    queue = lane()  # two of these fit
    for number in range(6):
        queue.arrive(request(f"many {number}", tenant="many"))
    started = []
    for now in range(1, 5):
        if now == 2:
            queue.arrive(request("other", arrived_s=2.0, tenant="other"))
        while (dispatch := queue.dispatch(float(now))) is not None:
            started += [each.id for each in dispatch.requests]
        queue.ended(started[now - 1])
    assert started[2] == "other", "the first to start once there is room"
    assert len(started) == 5


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 50)), min_size=2, max_size=12, unique=True
    ),
    st.sampled_from([1.0, 2.0, 4.0]),
)
def test_memory_is_divided_by_shares(arrivals: list[tuple[str, int]], share: float) -> None:
    queue = lane()
    for number, (tenant, at) in enumerate(arrivals):
        own = share if tenant == "b" else 1.0
        queue.arrive(request(str(number), float(at), tenant=tenant, share=own))
    held = {"a": 0, "b": 0}
    waiting = [tenant for tenant, _ in arrivals]
    while (dispatch := queue.dispatch(60.0)) is not None:
        [taken] = dispatch.requests
        least = min(set(waiting), key=lambda name: held[name] / (share if name == "b" else 1.0))
        of_taken = held[taken.tenant] / taken.share
        assert of_taken == held[least] / (share if least == "b" else 1.0)
        held[taken.tenant] += queue.pages_of(taken)
        waiting.remove(taken.tenant)
