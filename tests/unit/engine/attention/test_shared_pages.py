"""Which single tokens of a step begin with the same pages."""

from itertools import takewhile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.interface import Context
from engine.attention.shared_pages import SharedPages, SharingGate, find_shared_pages
from engine.attention.tables import tabulate

PAGE = 4
Table = list[int]


@st.composite
def trees(draw: st.DrawFn) -> list[Table]:
    """Page tables that are paths through a tree, as those of the prefix tree, and end apart."""
    tables: list[Table] = [[]]
    for page in range(draw(st.integers(1, 12))):
        tables.append([*draw(st.sampled_from(tables)), page])
    count = draw(st.integers(1, 9))
    return [[*draw(st.sampled_from(tables)), 100 + n] for n in range(count)]


def shared(
    tables: list[Table], gate: SharingGate, padded: frozenset[int] = frozenset()
) -> SharedPages | None:
    contexts = [Context(len(table) * PAGE - 2, 1, table) for table in tables]
    lowest = np.array([int(n in padded) for n in range(len(tables))])
    return find_shared_pages(tabulate(contexts, PAGE), lowest, PAGE, gate)


def common(one: Table, other: Table) -> int:
    pairs = zip(one, other, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


@given(trees())
def test_each_row_follows_one_with_which_it_shares_most(tables: list[Table]) -> None:
    found = shared(tables, SharingGate(tokens=1, rows=2))
    most = [
        max((common(one, other) for m, other in enumerate(tables) if m != n), default=0)
        for n, one in enumerate(tables)
    ]
    if found is None:
        assert not any(most)
        return
    order, leading = found.order.tolist(), found.leading.tolist()
    assert sorted(order) == list(range(len(tables)))
    assert leading == [0, *(common(tables[a], tables[b]) for a, b in zip(order, order[1:]))]  # noqa: B905, RUF007
    reached = zip(leading, [*leading[1:], 0], strict=True)
    assert [max(pair) for pair in reached] == [most[row] for row in order]


@given(trees(), st.integers(1, 4), st.integers(2, 4))
def test_less_than_the_gate_is_not_shared(tables: list[Table], pages: int, rows: int) -> None:
    found = shared(tables, SharingGate(tokens=pages * PAGE, rows=rows))
    beginnings = [tuple(table[:pages]) for table in tables if len(table) > pages]
    passing = max((beginnings.count(one) for one in beginnings), default=0) >= rows
    assert (found is not None) == passing
    if found is not None:
        assert all(count == 0 or count >= pages for count in found.leading.tolist())


def test_a_row_that_does_not_see_its_first_key_shares_nothing() -> None:
    tables = [[1, 2, 10], [1, 2, 11], [1, 2, 12]]
    found = shared(tables, SharingGate(tokens=1, rows=2), padded=frozenset({1}))
    assert found is not None
    assert found.order.tolist() == [0, 2, 1]
    assert found.leading.tolist() == [0, 2, 0]


def test_a_page_that_is_not_complete_is_not_shared() -> None:
    contexts = [Context(start, 1, [1, 2, 10 + start]) for start in (5, 7, 9)]
    tables, lowest = tabulate(contexts, PAGE), np.zeros(3, dtype=np.int64)
    found = find_shared_pages(tables, lowest, PAGE, SharingGate(tokens=1, rows=2))
    assert found is not None
    assert found.order.tolist() == [1, 2, 0]
    assert found.leading.tolist() == [0, 2, 1]
