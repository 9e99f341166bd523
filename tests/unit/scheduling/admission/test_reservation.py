"""Admission by sums of pages, counted by hand."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.admission.reservation import (
    REFRESH_STEPS,
    ReservationRule,
    SumOfReservations,
)
from gateway.scheduling.requests import QueuedRequest, RunningSequence

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
RULES: tuple[ReservationRule, ...] = ("reserved", "maximum", "held")
PAGE = 10
QUANTILES = (5.0, 10.0, 20.0, 30.0, 40.0, 60.0)
rules = st.sampled_from(RULES)


def an_admission(
    name: ReservationRule,
    running: Sequence[RunningSequence] = (),
    *,
    pages: int = 100,
    page: int = PAGE,
) -> SumOfReservations:
    admission = SumOfReservations(name)
    admission.resize(Capacity(pages, page))
    admission.refresh(running)
    return admission


def free_pages(
    name: ReservationRule, running: Sequence[RunningSequence], a_request: MakeRequest
) -> int:
    """Free pages of 100: the longest prompt that still fits."""
    for pages in range(100, 0, -1):
        probe = a_request(PAGE * pages - 1, quantiles=(1.0,) * 6, max_tokens=1)
        if an_admission(name, running).admit([probe]):
            return pages
    return 0


@pytest.mark.parametrize(
    ("name", "generated", "pages"),
    [
        ("reserved", 0, 9),  # 50 + 40
        ("reserved", 39, 9),
        ("reserved", 40, 13),  # 50 + 80
        ("reserved", 80, 15),  # 50 + 160, but at most 100
        ("maximum", 0, 15),
        ("maximum", 99, 15),
        ("held", 0, 6),  # 50 + 1
        ("held", 9, 6),
        ("held", 10, 7),
    ],
)
def test_running_sequence_counts_as_its_reservation(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    name: ReservationRule,
    generated: int,
    pages: int,
) -> None:
    running = a_sequence(50, quantiles=QUANTILES, max_tokens=100, generated=generated)
    assert free_pages(name, [running], a_request) == 100 - pages


@pytest.mark.parametrize(("name", "tokens"), [("reserved", 41), ("maximum", 100), ("held", 1)])
def test_engine_reserves_what_is_counted(
    a_request: MakeRequest, name: ReservationRule, tokens: int
) -> None:
    quantiles = (5.0, 10.0, 20.0, 30.0, 40.5, 60.0)
    request = a_request(50, quantiles=quantiles, max_tokens=100)
    assert an_admission(name).reserve(request) == tokens


@given(
    rules,
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150), st.booleans()), max_size=15),
    st.integers(10, 90),
)
def test_requests_are_admitted_while_their_pages_fit(
    a_request: MakeRequest,
    name: ReservationRule,
    drawn: list[tuple[int, int, bool]],
    pages: int,
) -> None:
    admission, held = an_admission(name, pages=pages), dict[str, int]()
    for prompt, generation, leaves in drawn:
        request = a_request(prompt, generation)
        tokens = {
            "reserved": -int(-request.p90 // 1),
            "maximum": request.max_tokens,
            "held": 1,
        }[name]
        takes = -(-(prompt + tokens) // PAGE)
        alone = not held and -(-(prompt + request.max_tokens) // PAGE) <= pages
        fits = alone or sum(held.values()) + takes <= pages
        assert admission.admit([request]) == int(fits)
        if fits:
            held[request.id] = takes
        if leaves and held:
            gone = next(iter(held))
            del held[gone]
            admission.leave(gone)
        assert admission.empty == (not held)


def test_admission_stops_at_the_first_request_that_does_not_fit(a_request: MakeRequest) -> None:
    row = [a_request(prompt, 1, max_tokens=10) for prompt in (290, 590, 190, 10)]
    admission = an_admission("maximum")
    assert admission.admit(row) == 2
    assert admission.admit(row[3:]) == 1


def test_oversized_request_can_be_forced_and_frees_its_pages(
    a_request: MakeRequest,
) -> None:
    admission, large = an_admission("maximum"), a_request(2_000)
    assert admission.admit([large]) == 0
    admission.force(large)
    assert admission.admit([a_request(1, max_tokens=1)]) == 0
    admission.leave(large.id)
    admission.leave(large.id)
    assert admission.admit([a_request(900, max_tokens=100)]) == 1


@pytest.mark.parametrize(
    ("name", "stale"), [("reserved", True), ("maximum", False), ("held", True)]
)
def test_refresh_is_due_where_reservations_grow(name: ReservationRule, stale: bool) -> None:
    admission = an_admission(name)
    admission.advance(REFRESH_STEPS - 1)
    assert not admission.stale
    admission.advance(1)
    assert admission.stale is stale
    admission.refresh([])
    assert not admission.stale


@pytest.mark.parametrize("name", RULES)
def test_pages_are_recounted_after_their_size_changed(
    a_request: MakeRequest, a_sequence: MakeRunning, name: ReservationRule
) -> None:
    running = [a_sequence(500, max_tokens=100)]
    admission = an_admission(name, running, pages=1_000, page=1)
    admission.resize(Capacity(100, PAGE))
    if admission.stale:
        admission.refresh(running)
    assert admission.admit([a_request(100, max_tokens=100)]) == 1


def test_cost_and_assumption_are_ignored(a_request: MakeRequest) -> None:
    admission = an_admission("reserved", pages=10)
    admission.price(EngineCost(LinearStepTime(1.0, 0.0, 0.0, 0.0), 512))
    admission.assume((50.0,) * 6)
    assert not admission.stale
    assert admission.admit([a_request(60, quantiles=QUANTILES, max_tokens=50)]) == 1
