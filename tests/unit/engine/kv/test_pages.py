"""The page pool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kv.pages import PagePool

SIZE = 12


@given(st.lists(st.tuples(st.booleans(), st.integers(0, SIZE))))
def test_every_page_is_free_or_owned_once_after_any_allocations(
    moves: list[tuple[bool, int]],
) -> None:
    pool = PagePool(SIZE, 4)
    tables: list[list[int]] = []
    for takes, number in moves:
        if takes and number <= pool.free:
            tables.append(pool.allocate(number))
        elif tables:
            pool.release(tables.pop(number % len(tables)))
        pool.check(tables)
        assert pool.free == SIZE - sum(map(len, tables))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_the_lowest_free_ids_go_first(counts: list[int], data: st.DataObject) -> None:
    pool = PagePool(SIZE, 4)
    tables = [pool.allocate(count) for count in counts]
    pool.release(tables.pop(data.draw(st.integers(0, len(tables) - 1))))
    free = sorted(set(range(SIZE)) - {page for table in tables for page in table})
    assert pool.allocate(2) == free[:2]


def test_no_more_pages_than_are_free_are_allocated() -> None:
    pool = PagePool(3, 4)
    pool.allocate(2)
    with pytest.raises(MemoryError, match="2 KV pages requested, 1 free"):
        pool.allocate(2)
    assert pool.free == 1


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_a_page_holds_its_tokens(tokens: int, pages: int) -> None:
    assert PagePool(8, 4).pages_for(tokens) == pages


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([[0, 1]], "neither free nor owned"),
        ([[0, 1, 2], [2]], "owned more than once"),
        ([[0, 1, 2, 3]], "owned more than once"),
        ([[0, 1, 2, 9]], "do not exist"),
    ],
)
def test_check_finds_inconsistencies(tables: list[list[int]], message: str) -> None:
    pool = PagePool(8, 4)
    pool.allocate(3)
    with pytest.raises(AssertionError, match=message):
        pool.check(tables)
