"""S³'s packing against first-fit decreasing written out."""

from collections.abc import Callable
from itertools import count, cycle, islice
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.baselines.s3 import MAX_PACKING_CANDIDATES, MAX_PASSES, S3Policy
from gateway.scheduling.requests import QueuedRequest
from tests.properties import part_of_examples

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
PAGE = 10
rounds = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(1, 150), st.integers(1, 90)), max_size=12),
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=6,
)


def a_policy(pages: int) -> S3Policy:
    policy = S3Policy(admission=SumOfReservations("reserved"))
    policy.resize(pages, PAGE)
    return policy


def tokens_of(request: QueuedRequest) -> int:
    """Reserved tokens: prompt and the predicted 0.9 quantile, rounded up."""
    return request.prompt_tokens - int(-request.p90 // 1)


def packed(waiting: list[QueuedRequest], running: list[QueuedRequest], pages: int) -> list[str]:
    """Those of the oldest that fit, largest first; if none and nothing runs, the oldest."""
    free = pages - sum(-(-tokens_of(request) // PAGE) for request in running)
    oldest = sorted(waiting, key=lambda request: request.arrived_s)[:MAX_PACKING_CANDIDATES]
    chosen = []
    for request in sorted(oldest, key=tokens_of, reverse=True):
        needed = -(-tokens_of(request) // PAGE)
        if needed <= free:
            free -= needed
            chosen.append(request.id)
    return chosen or [request.id for request in oldest[:1] if not running]


@given(rounds, st.integers(10, 80))
def test_oldest_are_packed_by_first_fit_decreasing(
    a_request: MakeRequest, drawn: list[tuple[list[tuple[int, int]], int]], pages: int
) -> None:
    policy, waiting, running = a_policy(pages), list[QueuedRequest](), list[QueuedRequest]()
    for second, (arriving, stay) in enumerate(drawn):
        for place, (prompt, generation) in enumerate(arriving):
            request = a_request(prompt, generation, arrived_s=second + place / 100)
            waiting.append(request)
            policy.arrive(request)
        for request in running[stay:]:
            policy.ended(request, 1, float(second))
        running = running[:stay]
        expected = packed(waiting, running, pages)
        found = policy.dispatch(second + 1.0)
        assert [r.id for r in found.requests] == expected if found else not expected
        running += [request for request in waiting if request.id in expected]
        waiting = [request for request in waiting if request.id not in expected]
        policy.check()


@part_of_examples(3)
@given(
    st.integers(80, 200),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4)), min_size=1),
)
def test_no_request_is_passed_by_more_than_a_bounded_number(
    a_request: MakeRequest, large: int, drawn: list[tuple[int, int, int]]
) -> None:
    """A large request waits among small ones, which arrive and end in any rhythm for long."""
    policy, running, passed = a_policy(pages=20), list[QueuedRequest](), dict[QueuedRequest, int]()
    arrived = count()
    for second, (prompt, arriving, ending) in enumerate(islice(cycle(drawn), 300)):
        sizes = [prompt] * arriving if second else [prompt, large]
        for size in sizes:
            request = a_request(size, 1, arrived_s=float(next(arrived)))
            passed[request] = 0
            policy.arrive(request)
        found = policy.dispatch(1e3)
        policy.check()
        for request in found.requests if found else ():
            del passed[request]
            for other in passed:
                passed[other] += other.arrived_s < request.arrived_s
            running.append(request)
        assert all(number < 128 + 64 for number in passed.values())
        for request in running[:ending]:
            policy.ended(request, 1, 1e3)
        running = running[ending:]


def test_memory_is_kept_for_a_request_that_many_have_passed(a_request: MakeRequest) -> None:
    policy = a_policy(pages=20)
    small = [a_request(50, 5, arrived_s=0.0)]
    policy.arrive(small[0])
    assert policy.dispatch(0.0) is not None
    policy.arrive(a_request(170, 5, arrived_s=1.0, request_id="large"))
    started = 0
    for _ in range(2 * MAX_PASSES):
        policy.arrive(a_request(50, 5, arrived_s=2.0))
        found = policy.dispatch(2.0)
        if found is None:
            break
        small += found.requests
        started += len(found.requests)
        policy.ended(small.pop(0), 5, 2.0)
    assert started == MAX_PASSES
    policy.ended(small.pop(), 5, 3.0)
    found = policy.dispatch(3.0)
    assert found is not None
    assert [request.id for request in found.requests] == ["large"]


def test_only_the_oldest_are_packed(a_request: MakeRequest) -> None:
    policy = a_policy(pages=10)
    for place in range(MAX_PACKING_CANDIDATES):
        policy.arrive(a_request(50, 5, arrived_s=float(place)))
    policy.arrive(a_request(85, 1, arrived_s=1e3, request_id="largest but young"))
    found = policy.dispatch(2e3)
    assert found is not None
    assert [request.arrived_s for request in found.requests] == [0.0]
    assert found.waited_s == 2e3


def test_smaller_requests_fill_what_the_largest_leaves(a_request: MakeRequest) -> None:
    policy = a_policy(pages=20)
    for prompt, name in ((40, "small"), (110, "large"), (120, "larger"), (50, "medium")):
        policy.arrive(a_request(prompt, 1, request_id=name))
    found = policy.dispatch(1.0)
    assert found is not None
    assert [request.id for request in found.requests] == ["larger", "medium"]
    assert policy.dispatch(1.0) is None


def test_s3_always_trusts_and_ignores_deadlines(a_request: MakeRequest) -> None:
    policy = a_policy(pages=20)
    policy.arrive(a_request(deadline_s=1.0))
    policy.trust(trusted=False)
    assert (policy.order, policy.lockstep) == ("policy", False)
    assert policy.give_up(99.0) == []
