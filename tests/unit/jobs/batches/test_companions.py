"""The order of a job's lines and of those of other jobs that go along with them."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.batches.claims.companions import NextLine, Place, due_alike, with_companions

JOB, OTHER = UUID(int=1), UUID(int=2)
HOUR_S = 3_600.0


def lines(*prefixes: str | None) -> list[NextLine]:
    return [NextLine((JOB, number), prefix) for number, prefix in enumerate(prefixes)]


def along(**counts: int) -> dict[str, list[Place]]:
    """Lines of the other job, numbered on from 10 for `a`, 20 for `b`."""
    first = {"a": 10, "b": 20}
    return {
        prefix: [(OTHER, first[prefix] + n) for n in range(count)]
        for prefix, count in counts.items()
    }


def numbers(places: list[Place]) -> list[int]:
    return [number for _, number in places]


def test_companions_follow_the_lines_of_their_group() -> None:
    order = with_companions(lines("a", "a", None, "b"), None, along(a=2, b=1))
    assert numbers(order) == [0, 1, 10, 11, 2, 3, 20]


def test_companions_of_a_group_that_began_before_come_first() -> None:
    assert numbers(with_companions(lines("b"), None, along(a=2, b=1))) == [10, 11, 0, 20]


@pytest.mark.parametrize("before", ["a", "b"])
def test_companions_wait_while_their_group_goes_on(before: str) -> None:
    assert numbers(with_companions(lines(before), "a", along(a=2))) == [0]


@given(
    st.lists(st.sampled_from(["a", "b", None]), max_size=6),
    st.sampled_from(["a", "b", None]),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_every_line_is_there_once_in_its_order(
    prefixes: list[str | None], following: str | None, a: int, b: int
) -> None:
    companions = along(a=a, b=b)
    order = with_companions(lines(*prefixes), following, companions)
    assert [n for job, n in order if job == JOB] == list(range(len(prefixes)))
    expected = [p for prefix, some in companions.items() if prefix != following for p in some]
    assert sorted(place for place in order if place[0] == OTHER) == sorted(expected)


@pytest.mark.parametrize(
    ("left_h", "other_left_h", "alike"),
    [(23, 24, True), (1, 24, False), (1, 2, True), (3, 4, True), (0.2, 24, False)],
)
def test_jobs_are_due_alike_by_the_time_that_the_first_has_left(
    left_h: float, other_left_h: float, *, alike: bool
) -> None:
    assert due_alike(HOUR_S * left_h, HOUR_S * other_left_h) == alike
