"""The bounds on what is queued, by tenant and in total."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import OverLimit, QueueFull, TenantQueueFull, Unavailable
from gateway.generation.queue.appointments import GRACE_S, Appointments, Level, Schedule
from gateway.generation.queue.load import QueueBounds, QueueLoad


def a_load(**bounds: int) -> QueueLoad:
    return QueueLoad(QueueBounds(**bounds))


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(1, 60), st.booleans()),
        max_size=60,
    )
)
def test_no_bound_is_exceeded_and_only_what_would_exceed_one_is_refused(
    asked: list[tuple[str, int, int, bool]],
) -> None:
    load = a_load(tokens=300, tenant_tokens=150, requests=12, tenant_requests=6)
    queued: dict[str, tuple[str, int]] = {}
    for number, (tenant, requests, tokens, leaves) in enumerate(asked):
        own = [count for name, count in queued.values() if name == tenant]
        every = [count for _, count in queued.values()]
        total = requests * tokens
        tenant_fits = len(own) + requests <= 6 and sum(own) + total <= 150
        fits = tenant_fits and len(every) + requests <= 12 and sum(every) + total <= 300
        try:
            load.check(tenant, requests, total)
        except TenantQueueFull:
            assert not tenant_fits
        except QueueFull:
            assert tenant_fits
            assert not fits
        else:
            assert fits
            for choice in range(requests):
                queued[f"{number}.{choice}"] = tenant, tokens
                load.add(f"{number}.{choice}", tenant, tokens)
        if leaves and queued:
            name = next(iter(queued))
            del queued[name]
            load.remove(name)
        load.appointments = Appointments()  # they are tested below
        load.check_counts()


def test_the_tenants_own_bound_is_429_and_the_nodes_is_503() -> None:
    assert issubclass(TenantQueueFull, OverLimit)
    assert issubclass(QueueFull, Unavailable)


def test_retry_is_after_the_queued_work_at_the_engines_pace() -> None:
    load = a_load(tenant_tokens=1_000)
    for number in range(9):
        load.add(str(number), "a", 100)
    for _ in range(500):
        load.stepped(10, 0.1)
    load.stepped(0, 5.0)  # nothing was computed: no pace
    with pytest.raises(TenantQueueFull, match="9 answers of 900 tokens") as refused:
        load.check("a", 1, 200)
    assert refused.value.retry_after_s == 2.0  # a ninth of 9 s, with caution, in whole seconds
    assert refused.value.should_retry
    load.check("b", 1, 200)


def test_no_library_retries_what_takes_longer_than_it_waits() -> None:
    load = a_load(tenant_tokens=1_000)
    load.add("r", "a", 900)
    load.stepped(10, 1.0)
    with pytest.raises(TenantQueueFull) as refused:
        load.check("a", 1, 400)
    assert refused.value.retry_after_s == pytest.approx(100.0)
    assert not len(load.appointments)
    assert not refused.value.should_retry


def test_room_is_kept_for_a_refused_request_until_its_time() -> None:
    now_s = 0.0
    load = QueueLoad(QueueBounds(requests=2, tenant_requests=2), clock=lambda: now_s)
    load.add("1", "a", 10)
    load.add("2", "b", 10)
    load.stepped(10, 1.0)
    with pytest.raises(QueueFull) as refused:
        load.check("c", 1, 10)
    assert refused.value.retry_after_s == 2.0
    load.remove("1")
    now_s = 2.0
    with pytest.raises(QueueFull):
        load.check("d", 1, 10)
    load.check("c", 1, 10)
    load.appointments.keep("c")
    load.add("3", "c", 10)
    assert not len(load.appointments.of("c"))
    with pytest.raises(QueueFull):
        load.check("c", 1, 10)


def test_later_refusals_are_given_later_times() -> None:
    load = QueueLoad(QueueBounds(requests=4, tenant_requests=4), clock=lambda: 0.0)
    for number in range(4):
        load.add(str(number), "a", 30)
    load.stepped(10, 1.0)
    times = []
    for tenant in "bcd":
        with pytest.raises(QueueFull) as refused:
            load.check(tenant, 1, 30)
        times.append(refused.value.retry_after_s)
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_an_appointment_without_its_request_passes() -> None:
    now_s = 0.0
    load = QueueLoad(QueueBounds(requests=1, tenant_requests=1), clock=lambda: now_s)
    load.add("1", "a", 10)
    with pytest.raises(QueueFull):
        load.check("b", 1, 10)
    load.remove("1")
    now_s = 60.0
    load.check("c", 1, 10)
    assert not len(load.appointments.node)


def test_every_refused_request_has_its_time_and_is_let_in_then() -> None:
    now_s = 0.0
    load = QueueLoad(QueueBounds(requests=4, tenant_requests=4), clock=lambda: now_s)
    waiting = deque(f"first {number}" for number in range(4))
    for name in waiting:
        load.add(name, "a", 10)
    load.stepped(20, 1.0)  # two requests a second
    given = {}
    for number in range(12):
        with pytest.raises(TenantQueueFull) as refused:
            load.check("a", 1, 10, name=number)
        given[number] = refused.value.retry_after_s or 0.0
    assert list(given.values()) == sorted(given.values())
    for second in range(1, 13):
        now_s = float(second)
        for _ in range(min(2, len(waiting))):
            load.remove(waiting.popleft())
        for number in [number for number, at_s in given.items() if at_s == second]:
            load.check("a", 1, 10, name=number)
            load.appointments.keep(number)
            load.add(f"again {number}", "a", 10)
            waiting.append(f"again {number}")
    assert max(given.values()) <= 12
    assert not len(load.appointments)


def test_a_newcomer_is_let_in_that_keeps_no_one_from_coming_back() -> None:
    now_s = 0.0
    load = QueueLoad(QueueBounds(requests=4, tenant_requests=4), clock=lambda: now_s)
    for number in range(4):
        load.add(str(number), "a", 10)
    load.stepped(10, 1.0)  # one request a second
    for name in "xyz":
        with pytest.raises(TenantQueueFull):
            load.check("a", 1, 10, name=name)
    for number in range(4):
        load.remove(str(number))  # sooner than expected
    for number in range(3):  # they will have started by then
        load.check("a", 1, 10, name="new")
        load.add(f"new {number}", "a", 10)
    for number in range(2):
        load.remove(f"new {number}")
    now_s = 5.0  # all three may come at any moment
    with pytest.raises(TenantQueueFull, match="the room is kept for others"):
        load.check("a", 1, 10, name="new")


def test_those_who_come_at_their_time_may_exceed_a_bound_by_a_quarter() -> None:
    now_s = 0.0
    load = QueueLoad(QueueBounds(requests=4, tenant_requests=4), clock=lambda: now_s)
    for number in range(4):
        load.add(str(number), "a", 10)
    for name in "xy":
        with pytest.raises(TenantQueueFull):
            load.check("a", 1, 10, name=name)
    now_s = GRACE_S  # nothing has started
    load.check("a", 1, 10, name="x")
    load.appointments.keep("x")
    load.add("x", "a", 10)
    with pytest.raises(TenantQueueFull):
        load.check("a", 1, 10, name="y")


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=8),
    st.integers(0, 20),
    st.floats(0, 5),
)
def test_levels_are_those_of_a_queue_that_shrinks_steadily(
    returns: list[tuple[int, int]], queued: int, pace: float
) -> None:
    schedule = Schedule()
    for second, requests in sorted(returns):
        schedule.add(float(second), requests, 10 * requests)
    found = dict(schedule.levels(Level(queued, 10 * queued), Level(pace, 10 * pace), 0.0))
    level = float(queued)
    for second in range(10):
        level = max(level - pace, 0.0) if second else level
        level += sum(requests for at, requests in returns if at == second)
        if any(at == second for at, _ in returns):
            assert found[second].requests == pytest.approx(level)
            assert found[second].tokens == pytest.approx(10 * level)


def test_what_does_not_come_back_is_forgotten() -> None:
    schedule = Schedule()
    schedule.add(2.0, 1, 10)
    schedule.add(1.2, 1, 10)
    schedule.add(2.0, -1, -10)
    schedule.add(1.2, -1, -10)
    assert not len(schedule)


def test_a_request_that_no_empty_queue_holds_is_not_worth_a_retry() -> None:
    with pytest.raises(TenantQueueFull, match="needs 9 answers of 90 tokens") as refused:
        a_load(tenant_requests=8).check("a", 9, 90)
    assert not refused.value.should_retry


def test_defaults_follow_from_the_models_context() -> None:
    assert QueueBounds().resolved(2_048).tenant_tokens == 262_144
    assert QueueBounds().resolved(131_072).tenant_tokens == 16 * 131_072
    assert QueueBounds().resolved(131_072).tokens == 64 * 131_072
    assert QueueBounds(tokens=5, tenant_tokens=3).resolved(131_072).tokens == 5
