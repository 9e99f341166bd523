"""The heap with lazy deletion against sorting what lives."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lazy_heap import MIN_STALE_ENTRIES, LazyHeap

keys = st.integers(0, 9).map(float)
actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["push", "push", "pop_before", "pop_through"]), keys),
        st.tuples(st.sampled_from(["remove", "first"]), st.integers(0, 40)),
    ),
    max_size=120,
)


@given(actions)
def test_it_is_a_sorted_list_of_what_lives(drawn: list[tuple[str, float]]) -> None:
    live, entered, serials = dict[int, str](), list[tuple[float, int]](), count()
    heap: LazyHeap[float, str] = LazyHeap(live)
    for action, value in drawn:
        if action == "push":
            serial = next(serials)
            live[serial] = f"the {serial}th"
            heap.push(value, serial)
            entered.append((value, serial))
        elif action == "remove" and entered:
            _, serial = entered.pop(int(value) % len(entered))
            del live[serial]
        elif action == "first":
            known = [live[serial] for _, serial in sorted(entered)]
            assert heap.first(int(value)) == known[: int(value)]
        elif action.startswith("pop"):
            through = action == "pop_through"
            out = sorted(e for e in entered if e[0] < value or (through and e[0] == value))
            assert getattr(heap, action)(value) == [live[serial] for _, serial in out]
            entered = [entry for entry in entered if entry not in out]  # they live on elsewhere
        least = min(entered, default=None)
        assert heap.peek() == (live[least[1]] if least else None)
        if least:
            assert heap.min_key() == least[0]


def test_nothing_is_least_where_nothing_lives() -> None:
    live = {1: "one"}
    heap: LazyHeap[float, str] = LazyHeap(live)
    heap.push(1.0, 1)
    live.clear()
    assert (heap.peek(), heap.first(3), heap.pop_through(9.0)) == (None, [], [])
    with pytest.raises(IndexError):
        heap.min_key()


@pytest.mark.parametrize("most", [0, 1, 50])
def test_the_dead_never_outnumber_the_living_by_more_than_a_few(most: int) -> None:
    live = dict[int, int]()
    heap: LazyHeap[float, int] = LazyHeap(live)
    for serial in range(2_000):
        live[serial] = serial
        heap.push(-float(serial), serial)  # the dead lie deepest
        assert len(heap._heap) <= 2 * len(live) + MIN_STALE_ENTRIES
        if len(live) > most:
            del live[min(live)]
    assert heap.first(2_000) == sorted(live, reverse=True)


def test_equal_keys_go_by_serial() -> None:
    live = {3: "a", 1: "b", 2: "c"}
    heap: LazyHeap[tuple[float, str], str] = LazyHeap(live)
    for serial in live:
        heap.push((0.5, "same"), serial)
    assert heap.first(3) == ["b", "c", "a"]
