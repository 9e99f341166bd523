"""The queue of work on long texts against a brute-force oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import OverLimit, QueueFull, TenantQueueFull, Unavailable
from gateway.generation.text.work_queue import WorkBounds, WorkQueue

PUSHES = st.tuples(st.sampled_from("abcd"), st.integers(0, 50))
STEPS = st.lists(PUSHES | st.just("pop") | st.integers(0, 40), max_size=80)


def a_queue(**bounds: int) -> WorkQueue[int]:
    return WorkQueue(WorkBounds(**bounds), workers=2)


@given(STEPS)
def test_each_turn_is_of_the_tenant_that_has_waited_longest_since_its_last(
    steps: list[tuple[str, int] | str | int],
) -> None:
    queue = a_queue()
    waiting: list[tuple[int, str]] = []  # the oracle's jobs: number and tenant, oldest first
    since: dict[str, int] = {}  # when a tenant last had a turn, or began to wait
    for time, step in enumerate(steps):
        if isinstance(step, tuple):
            tenant, work_us = step
            if tenant not in {name for _, name in waiting}:
                since[tenant] = time
            waiting.append((queue.push(tenant, work_us, len(waiting)), tenant))
        elif isinstance(step, int):
            queue.discard(step)
            waiting = [entry for entry in waiting if entry[0] != step]
        elif waiting:
            turn = min({name for _, name in waiting}, key=lambda name: since[name])
            expected = next(entry for entry in waiting if entry[1] == turn)
            before = len(queue)
            queue.pop()
            assert len(queue) == before - 1
            waiting.remove(expected)
            since[turn] = time
            assert expected[0] not in queue._owners
        assert set(queue._owners.items()) == set(waiting)
        queue.check_counts()


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_a_job_waits_for_one_of_each_other_tenant_and_for_its_own(tenants: list[str]) -> None:
    queue = a_queue()
    for place, tenant in enumerate(tenants):
        queue.push(tenant, 1, place)
    order = [queue.pop() for _ in tenants]
    for place, tenant in enumerate(tenants):
        own = sum(name == tenant for name in tenants[: place + 1])
        others = len(set(tenants) - {tenant})
        assert order.index(place) < own + own * others


@given(st.lists(PUSHES, max_size=60))
def test_only_what_would_exceed_a_bound_is_refused(asked: list[tuple[str, int]]) -> None:
    queue = a_queue(tenant_us=100, tenant_jobs=4, total_us=200, total_jobs=8)
    waiting: list[tuple[str, int]] = []
    for tenant, work_us in asked:
        own = [work for name, work in waiting if name == tenant]
        every = [work for _, work in waiting]
        tenant_fits = len(own) < 4 and (not own or sum(own) + work_us <= 100)
        fits = tenant_fits and len(every) < 8 and (not every or sum(every) + work_us <= 200)
        try:
            queue.check(tenant, work_us)
        except TenantQueueFull:
            assert not tenant_fits
        except QueueFull:
            assert tenant_fits
            assert not fits
        else:
            assert fits
            queue.push(tenant, work_us, 0)
            waiting.append((tenant, work_us))


def test_refusal_says_when_the_work_that_waits_is_done() -> None:
    queue = a_queue(tenant_jobs=1, total_jobs=2)
    queue.push("a", 60_000_000, 0)
    queue.push("b", 1, 0)
    with pytest.raises(OverLimit) as own:
        queue.check("a", 1)
    with pytest.raises(Unavailable) as every:
        queue.check("c", 1)
    assert (own.value.retry_after_s, every.value.retry_after_s) == (30.0, 30.0000005)


def test_one_large_job_is_accepted_while_no_other_waits() -> None:
    queue = a_queue(tenant_us=10, total_us=10)
    queue.check("a", 11)
    queue.push("a", 11, 0)
    with pytest.raises(TenantQueueFull):
        queue.check("a", 1)
    with pytest.raises(KeyError):
        a_queue().pop()
