"""Admission with shared prefixes, against sums over every step and every set of living members."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from math import prod, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Admission, Capacity
from gateway.scheduling.admission.ledger import HeldPages, held_pages
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.admission.page_forecast import INTERVAL_ENDS, INTERVAL_STARTS
from gateway.scheduling.admission.reservation import ReservationRule, SumOfReservations
from gateway.scheduling.requests import QueuedRequest, RunningSequence, SharedPrefix

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
PAGE = 8
RULES: tuple[ReservationRule, ...] = ("reserved", "maximum", "held")
PREFIXES = [None, SharedPrefix("a", 40), SharedPrefix("b", 8), SharedPrefix("c", 120)]
kinds = st.integers(0, len(PREFIXES) - 1)
members = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 150), kinds), max_size=6)
events = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "leave", "pin", "unpin", "refresh"]),
        st.integers(1, 60),
        st.integers(1, 150),
        kinds,
    ),
    max_size=24,
)


def peak_rule(pages: int = 1_000, page: int = PAGE) -> FuturePeak:
    admission = FuturePeak(2.0)
    admission.resize(Capacity(pages, page))
    return admission


def sum_rule(name: ReservationRule, pages: int = 1_000, page: int = PAGE) -> SumOfReservations:
    admission = SumOfReservations(name)
    admission.resize(Capacity(pages, page))
    return admission


def pages_of_prefix(prefix: SharedPrefix, page: int = PAGE) -> int:
    return prefix.tokens // page


def by_every_outcome(
    running: Sequence[RunningSequence], pinned: Iterable[SharedPrefix], place: int
) -> tuple[float, float]:
    """Mean and variance of the pages in one interval, summed over who lives and who has ended."""
    start, end = INTERVAL_STARTS[place : place + 1], float(INTERVAL_ENDS[place])
    alive = [float(LengthDistributions.of([each]).survival(start)[0, 0]) for each in running]
    outcomes = []
    for living in product([False, True], repeat=len(running)):
        chance = prod(p if lives else 1 - p for p, lives in zip(alive, living, strict=True))
        held = {prefix.id: pages_of_prefix(prefix) for prefix in pinned}
        own = 0
        for each, lives in zip(running, living, strict=True):
            if lives:
                tokens = each.prompt_tokens + min(each.generated + end, each.max_tokens)
                own += -(-int(tokens) // PAGE)
                if each.prefix is not None:
                    own -= pages_of_prefix(each.prefix)
                    held[each.prefix.id] = pages_of_prefix(each.prefix)
        outcomes.append((chance, own + sum(held.values())))
    mean = sum(chance * pages for chance, pages in outcomes)
    return mean, sum(chance * (pages - mean) ** 2 for chance, pages in outcomes)


def a_member(
    a_request: MakeRequest, own: int, generation: int, kind: int, name: str | None = None
) -> QueuedRequest:
    prefix = PREFIXES[kind]
    prompt = own + (prefix.tokens if prefix else 0)
    return a_request(prompt, generation, prefix=prefix, request_id=name)


@given(members, st.sets(st.integers(1, 3)), st.integers(0, 30))
def test_future_peak_is_that_of_all_outcomes(
    a_request: MakeRequest, drawn: list[tuple[int, int, int]], pins: set[int], place: int
) -> None:
    running = [a_member(a_request, *each).started() for each in drawn]
    pinned = [prefix for kind in pins if (prefix := PREFIXES[kind])]
    admission = peak_rule()
    for prefix in pinned:
        admission.pin(prefix)
    admission.refresh(running)
    mean, variance = by_every_outcome(running, pinned, place)
    assert admission._ahead.mean[place] == pytest.approx(mean, abs=1e-6)
    assert sqrt(admission._ahead.variance[place]) == pytest.approx(
        sqrt(variance), rel=1e-5, abs=1e-4
    )


@given(events)
def test_future_peak_kept_up_event_by_event_equals_a_fresh_one(
    a_request: MakeRequest, drawn: list[tuple[str, int, int, int]]
) -> None:
    admission = peak_rule()
    running, pinned = follow(admission, drawn, a_request)
    fresh = peak_rule()
    for prefix in pinned:
        fresh.pin(prefix)
    for request in running:
        fresh.force(request)
    assert admission._ahead.mean == pytest.approx(fresh._ahead.mean, abs=1e-3)
    assert admission._ahead.variance == pytest.approx(fresh._ahead.variance, rel=1e-3, abs=1e-1)
    assert admission.empty == (not running)


@pytest.mark.parametrize("name", RULES)
@given(drawn=events)
def test_sum_counts_each_prefix_once_after_any_events(
    a_request: MakeRequest, name: ReservationRule, drawn: list[tuple[str, int, int, int]]
) -> None:
    admission = sum_rule(name)
    running, pinned = follow(admission, drawn, a_request)
    pages = 0
    for request in running:
        tokens = {"reserved": -int(-request.p90 // 1), "maximum": request.max_tokens, "held": 1}
        pages += -(-(request.prompt_tokens + tokens[name]) // PAGE)
        pages -= pages_of_prefix(request.prefix) if request.prefix else 0
    held = {*pinned, *(request.prefix for request in running if request.prefix)}
    assert admission._pages == pages + sum(map(pages_of_prefix, held))


def follow(
    admission: Admission, drawn: list[tuple[str, int, int, int]], a_request: MakeRequest
) -> tuple[list[QueuedRequest], set[SharedPrefix]]:
    """Apply events to an admission rule; what runs and what is pinned after them."""
    running: list[QueuedRequest] = []
    pinned: set[SharedPrefix] = set()
    for place, (event, own, generation, kind) in enumerate(drawn):
        prefix = PREFIXES[kind]
        if event == "join":
            request = a_member(a_request, own, generation, kind, f"m{place}")
            admission.force(request)
            running.append(request)
        elif event == "leave" and running:
            admission.leave(running.pop(own % len(running)).id)
        elif event == "pin" and prefix is not None:
            admission.pin(prefix)
            pinned.add(prefix)
        elif event == "unpin" and prefix is not None:
            admission.unpin(prefix.id)
            pinned.discard(prefix)
        elif event == "refresh":
            admission.refresh([request.started() for request in running])
    return running, pinned


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("page", "fit"), [(1, 75), (16, 74)])
def test_members_of_groups_of_sixteen_fit_a_pool_of_32768_tokens(
    a_request: MakeRequest, page: int, fit: int, *, shared: bool
) -> None:
    """2000 shared, 200 own, 100 answer tokens: 14 without sharing. Whole pages of 16 cost one."""
    lengths = (100.0,) * 6
    line = [
        a_request(
            2_200,
            quantiles=lengths,
            max_tokens=100,
            prefix=SharedPrefix(f"group {place // 16}", 2_000) if shared else None,
        )
        for place in range(128)
    ]
    for admission in (peak_rule(32_768 // page, page), sum_rule("reserved", 32_768 // page, page)):
        assert admission.admit(line) == (fit if shared else 14)


def test_page_use_of_a_lone_request_is_the_same_with_and_without_a_prefix(
    a_request: MakeRequest,
) -> None:
    """Its own pages, its prefix's, and their covariance are those of the whole."""
    plain, grouped = peak_rule(), peak_rule()
    request = a_request(50, request_id="x")
    plain.force(request)
    grouped.force(replace(request, prefix=SharedPrefix("p", 40)))
    assert grouped._ahead.mean == pytest.approx(plain._ahead.mean, abs=1e-6)
    assert grouped._ahead.variance == pytest.approx(plain._ahead.variance, abs=1e-4)


@pytest.mark.parametrize("rule", ["peak", "held"])
def test_foreign_pin_takes_room_from_a_lone_request(a_request: MakeRequest, rule: str) -> None:
    admission = peak_rule(30) if rule == "peak" else sum_rule("held", 30)
    admission.pin(SharedPrefix("other", 8 * PAGE))
    request = a_request(10 * PAGE, max_tokens=15 * PAGE, quantiles=(15.0 * PAGE,) * 6)
    own = replace(request, prefix=SharedPrefix("other", 8 * PAGE))
    assert admission.admit([replace(request, max_tokens=15 * PAGE, prompt_tokens=23 * PAGE)]) == 0
    assert admission.admit([own]) == 1
    admission.leave(own.id)
    admission.unpin("other")
    assert admission.admit([request]) == 1


def test_pins_outlast_a_resize(a_request: MakeRequest) -> None:
    for admission in (peak_rule(10), sum_rule("held", 10)):
        admission.pin(SharedPrefix("p", 4 * 16))
        admission.resize(Capacity(10, 16))
        assert admission.admit([a_request(3 * 16, max_tokens=16)]) == 1
        assert admission.admit([a_request(4 * 16, max_tokens=16)]) == 0


def test_ledger_says_what_is_held_where(a_sequence: MakeRunning) -> None:
    shared, pinned = SharedPrefix("s", 5 * PAGE), SharedPrefix("p", 3 * PAGE)
    running = [
        a_sequence(6 * PAGE, generated=1, prefix=shared),
        a_sequence(7 * PAGE, prefix=shared),
        a_sequence(4 * PAGE, prefix=pinned),
        a_sequence(9 * PAGE),
        replace(a_sequence(6 * PAGE, prefix=SharedPrefix("gone", 2 * PAGE)), suspended=True),
    ]
    held = held_pages(running, [pinned, SharedPrefix("idle", PAGE)], PAGE)
    assert held == HeldPages(private=2 + 2 + 1 + 9, shared=5, pinned=4, host=4)
    assert held.in_pool == 23
