"""What is certain of the use ahead, against use by any chances of running on."""

from collections.abc import Callable
from math import ceil, inf, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.worst_case import WorstCase
from gateway.scheduling.requests import QueuedRequest, RunningSequence

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
chances = st.floats(0, 1)
parts = st.lists(st.tuples(st.integers(1, 2_000), chances), min_size=1, max_size=8)


@given(parts, st.integers(1, 32), st.integers(0, 300), st.integers(1, 1_500))
def test_no_chances_of_running_on_make_it_likelier_to_need_more(
    a_sequence: MakeRunning,
    drawn: list[tuple[int, float]],
    page: int,
    steps: int,
    pages: int,
) -> None:
    running = [a_sequence(tokens) for tokens, _ in drawn]
    uses = [(ceil((tokens + steps) / page), chance) for tokens, chance in drawn]
    mean = sum(use * chance for use, chance in uses)
    variance = sum(use**2 * chance * (1 - chance) for use, chance in uses)
    beyond = (mean - pages) / sqrt(variance + 1e-12)
    found = WorstCase.of(running, page).chance_beyond(pages, steps)
    assert NormalDist().cdf(beyond) <= found + 1e-9


def test_bound_is_met_where_all_are_alike(a_sequence: MakeRunning) -> None:
    """One sequence of u pages that runs with s; C - U = u·(1 - s) is the least favourable."""
    page, tokens, chance = 1, 10_000, 0.999
    slack = (1 - chance) * tokens
    beyond = (chance * tokens - tokens - slack) / (tokens * sqrt(chance * (1 - chance)))
    bound = WorstCase.of([a_sequence(tokens)], page).deviations(tokens + slack + 1, 0)
    assert bound == pytest.approx(-beyond, rel=2e-3)


def test_request_that_joins_is_one_more(a_sequence: MakeRunning, a_request: MakeRequest) -> None:
    running = WorstCase.of([a_sequence(33, generated=16)], 16)
    assert running == (16, 1, 4, 49, 49)
    assert running.joined(a_request(64)) == (16, 2, 8, 113, 64)


def test_more_than_the_pool_with_all_running_is_never_certain(a_sequence: MakeRunning) -> None:
    case = WorstCase.of([a_sequence(32)], 16)
    assert case.deviations(2, 0) == -inf
    assert case.chance_beyond(2, 0) == 1.0
    assert WorstCase.of([], 16).pages == 0
