"""The future KV peak of known lengths against running them step by step."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.capacity import Capacity
from gateway.scheduling.upper_peak import REFRESH, Held, UpperPeak, future_peak, held_at_upper
from gateway.scheduling.waiting import Quantiles, Running, Waiting

MakeWaiting = Callable[..., Waiting]
MakeRunning = Callable[..., Running]
HORIZON = 40
helds = st.builds(Held, held=st.integers(0, 50), remaining=st.integers(0, HORIZON))
UPTO_80: Quantiles = (10.0, 20.0, 40.0, 60.0, 80.0, 90.0)


def an_admission(running: Sequence[Running] = (), *, pages: int = 100, page: int = 8) -> UpperPeak:
    admission = UpperPeak()
    admission.resize(Capacity(pages, page))
    admission.refresh(running)
    return admission


def tokens_at(step: int, running: Sequence[Held]) -> int:
    return sum(seq.held + step for seq in running if step <= seq.remaining)


def worst_of(running: Sequence[Held]) -> int:
    reach = max((seq.remaining for seq in running), default=0)
    return max(tokens_at(step, running) for step in range(reach + 1))


@given(st.lists(helds, max_size=8))
def test_future_peak_is_the_worst_step_of_a_full_run(running: list[Held]) -> None:
    assert future_peak(running) == worst_of(running)


@given(st.lists(helds, min_size=1, max_size=8), st.randoms())
def test_future_peak_is_the_published_maximum_over_ends(
    running: list[Held], random: Random
) -> None:
    random.shuffle(running)
    order = sorted(running, key=lambda seq: -seq.remaining)
    peaks = [
        order[i].remaining * (i + 1) + sum(seq.held for seq in order[: i + 1])
        for i in range(len(order))
    ]
    assert future_peak(running) == max(peaks)


def test_sequences_count_to_their_upper_quantile(a_sequence: MakeRunning) -> None:
    fresh = a_sequence(100, quantiles=UPTO_80)
    overdue = a_sequence(100, quantiles=UPTO_80, generated=120, max_tokens=150)
    now, late = held_at_upper([fresh, overdue])
    assert now == Held(100, 80)
    assert late.held == 220
    assert 1 <= late.remaining <= 30


def test_nothing_running_holds_nothing() -> None:
    assert held_at_upper([]) == []
    assert future_peak([]) == 0


@given(
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 90)), min_size=1, max_size=10),
    st.integers(1, 150),
    st.integers(1, 16),
)
def test_requests_are_admitted_while_their_worst_step_fits(
    a_request: MakeWaiting, drawn: list[tuple[int, int]], pages: int, page: int
) -> None:
    requests = [a_request(p, g) for p, g in drawn]
    capacity, fits, running = Capacity(pages, page), 0, list[Held]()
    for request in requests:
        running.append(Held(request.prompt_tokens + page - 1, -int(-request.upper // 1)))
        alone = len(running) == 1 and capacity.holds(request)
        if not alone and worst_of(running) > pages * page:
            break
        fits += 1
    admission = an_admission(pages=pages, page=page)
    assert admission.admit(requests) == fits
    assert admission.empty == (fits == 0)


def test_steps_are_counted_between_two_refreshes(
    a_sequence: MakeRunning, a_request: MakeWaiting
) -> None:
    certain = (20.0,) * 6
    running = [a_sequence(400, quantiles=certain, max_tokens=20)]
    request = a_request(360, quantiles=certain, max_tokens=20)
    pages = -(-(400 + 7 + 360 + 7 + 20 + 20) // 8)  # both at their longest at once
    assert an_admission(running, pages=pages).admit([request]) == 1
    assert an_admission(running, pages=pages - 1).admit([request]) == 0
    later = an_admission(running, pages=pages - 1)
    later.advance(REFRESH)  # it will have ended so much earlier
    assert later.stale
    assert later.admit([request]) == 1


def test_who_left_takes_no_room(a_sequence: MakeRunning, a_request: MakeWaiting) -> None:
    running = [a_sequence(600), a_sequence(60)]
    admission, request = an_admission(running), a_request(500)
    assert admission.admit([request]) == 0
    admission.leave("unknown")
    admission.leave(running[0].id)
    assert admission.admit([request]) == 1
    admission.leave(running[1].id)
    admission.leave(request.id)
    assert admission.empty


def test_too_large_a_request_can_be_forced(a_request: MakeWaiting) -> None:
    admission, large = an_admission(), a_request(900)
    assert admission.admit([large]) == 0
    admission.force(large)
    assert not admission.empty
    assert admission.admit([a_request(1)]) == 0


@pytest.mark.parametrize(
    ("quantile", "longest", "tokens"), [(79.1, 200, 80), (0.3, 200, 1), (80.0, 60, 60)]
)
def test_engine_is_asked_for_the_upper_quantile(
    a_request: MakeWaiting, quantile: float, longest: int, tokens: int
) -> None:
    request = a_request(quantiles=(0.1, 0.1, 0.2, 0.2, quantile, 99.0), max_tokens=longest)
    assert an_admission().reserve(request) == tokens


def test_nothing_else_is_assumed_of_lengths_than_was_predicted(
    a_sequence: MakeRunning, a_request: MakeWaiting
) -> None:
    admission, request = an_admission([a_sequence(600)]), a_request(100, 10)
    admission.assume((200.0,) * 6)
    assert not admission.stale
    assert admission.reserve(request) == 22
    assert admission.admit([request]) == 1
