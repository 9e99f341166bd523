"""Which single tokens of a step begin with the same pages."""

from itertools import takewhile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.interface import Context
from engine.attention.shared_pages import (
    SharedPages,
    SharingGate,
    disjoint_groups,
    find_shared_pages,
)
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


def test_fewer_keys_than_the_gate_are_not_looked_for() -> None:
    tables = [[1, 2, 10], [1, 2, 11], [3, 4, 12]]
    assert shared(tables, SharingGate(tokens=1, rows=2, keys=4 * PAGE)) is not None
    assert shared(tables, SharingGate(tokens=1, rows=2, keys=4 * PAGE + 1)) is None


@given(trees(), st.integers(2, 4))
def test_groups_are_disjoint_and_share_their_pages(tables: list[Table], rows: int) -> None:
    found = shared(tables, SharingGate(tokens=1, rows=rows))
    groups = disjoint_groups(found, rows) if found else []
    assert bool(groups) == (found is not None)
    grouped = [n for group in groups for n in range(group.first, group.first + group.rows)]
    assert len(grouped) == len(set(grouped))
    for group in groups:
        assert found is not None
        assert group.rows >= rows
        assert group.pages > 0
        members = found.order[group.first : group.first + group.rows].tolist()
        assert all(common(tables[members[0]], tables[row]) >= group.pages for row in members[1:])


def test_groups_among_those_that_begin_alike_are_taken_if_they_save_more() -> None:
    trunk, branches = [1], ([2, 3, 4], [5, 6, 7])
    apart = [
        [*trunk, *branch, 10 * n + leaf] for n, branch in enumerate(branches, 1) for leaf in (0, 1)
    ]
    together = [[*trunk, 30 + leaf] for leaf in range(9)]
    for tables, rows in ((apart, [2, 2]), (apart + together, [13])):
        found = shared(tables, SharingGate(tokens=1, rows=2))
        assert found is not None
        assert [group.rows for group in disjoint_groups(found, 2)] == rows


def test_a_row_that_does_not_see_its_first_key_shares_nothing() -> None:
    tables = [[1, 2, 10], [1, 2, 11], [1, 2, 12]]
    found = shared(tables, SharingGate(tokens=1, rows=2), padded=frozenset({1}))
    assert found is not None
    assert found.order.tolist() == [0, 2, 1]
    assert found.leading.tolist() == [0, 2, 0]


def test_the_page_of_a_token_itself_is_not_shared() -> None:
    contexts = [Context(start, 1, [1, 2, 10 + start]) for start in (5, 7, 8, 9)]
    tables, lowest = tabulate(contexts, PAGE), np.zeros(4, dtype=np.int64)
    found = find_shared_pages(tables, lowest, PAGE, SharingGate(tokens=1, rows=2))
    assert found is not None
    assert found.order.tolist() == [2, 3, 0, 1]
    assert found.leading.tolist() == [0, 2, 1, 1]
