"""The heap with lazy deletion against sorting the live items."""

from itertools import count, islice
from math import log2
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lazy_heap import MIN_STALE_ENTRIES, LazyHeap

keys = st.integers(0, 9).map(float)
actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["push", "push", "pop_before", "pop_through"]), keys),
        st.tuples(st.sampled_from(["remove", "first", "return"]), st.integers(0, 40)),
        st.tuples(st.sampled_from(["change", "change"]), st.integers(0, 99)),
    ),
    max_size=120,
)


@given(actions)
def test_heap_equals_a_sorted_list_of_live_items(drawn: list[tuple[str, float]]) -> None:
    live, entries, serials = dict[int, str](), list[tuple[float, int]](), count()
    removed: list[tuple[float, int]] = []
    heap: LazyHeap[float, str] = LazyHeap(live)
    for action, value in drawn:
        if action == "push":
            serial = next(serials)
            live[serial] = f"the {serial}th"
            heap.push(value, serial)
            entries.append((value, serial))
        elif action == "remove" and entries:
            entry = entries.pop(int(value) % len(entries))
            removed.append(entry)
            del live[entry[1]]
        elif action == "return" and removed:
            key, serial = removed.pop(int(value) % len(removed))
            live[serial] = f"the {serial}th"
            heap.push(key, serial)  # as it was: its stale entry may still be there
            entries.append((key, serial))
        elif action == "change" and entries:
            place, key = int(value) // 10 % len(entries), float(value % 10)
            _, serial = entries[place]
            entries[place] = (key, serial)
            heap.push(key, serial)
        elif action == "first":
            known = [live[serial] for _, serial in sorted(entries)]
            assert list(heap) == known
            assert heap.first(int(value)) == known[: int(value)]
        elif action.startswith("pop"):
            through = action == "pop_through"
            out = sorted(e for e in entries if e[0] < value or (through and e[0] == value))
            assert getattr(heap, action)(value) == [live[serial] for _, serial in out]
            entries = [entry for entry in entries if entry not in out]  # popped, though still live
        lowest = min(entries, default=None)
        assert heap.peek() == (live[lowest[1]] if lowest else None)
        if lowest:
            assert heap.min_key() == lowest[0]


def test_heap_without_live_items_is_empty() -> None:
    live = {1: "one"}
    heap: LazyHeap[float, str] = LazyHeap(live)
    heap.push(1.0, 1)
    live.clear()
    assert (heap.peek(), heap.first(3), heap.pop_through(9.0)) == (None, [], [])
    with pytest.raises(IndexError):
        heap.min_key()


class Counted(float):
    """A time that counts its comparisons; so does one some seconds earlier."""

    compared = 0

    def __sub__(self, seconds: float) -> "Counted":
        return Counted(super().__sub__(seconds))

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return super().__lt__(other)


def test_reading_the_first_of_many_items_compares_few_of_them() -> None:
    number, read = 10_000, 50
    live = dict(enumerate(range(number)))
    heap: LazyHeap[float, int] = LazyHeap(live)
    for serial in Random(1).sample(range(number), number):
        heap.push(Counted(serial), serial)
    Counted.compared = 0
    assert list(islice(heap, read)) == list(range(read))
    assert 0 < Counted.compared < 2 * read * log2(2 * read)


@pytest.mark.parametrize("max_live", [0, 1, 50])
def test_stale_entries_stay_bounded(max_live: int) -> None:
    live = dict[int, int]()
    heap: LazyHeap[float, int] = LazyHeap(live)
    for serial in range(2_000):
        live[serial] = serial
        heap.push(-float(serial), serial)  # stale entries sink to the bottom
        assert len(heap._heap) <= 2 * len(live) + MIN_STALE_ENTRIES
        if len(live) > max_live:
            del live[min(live)]
    assert heap.first(2_000) == sorted(live, reverse=True)


def test_equal_keys_are_ordered_by_serial() -> None:
    live = {3: "a", 1: "b", 2: "c"}
    heap: LazyHeap[tuple[float, str], str] = LazyHeap(live)
    for serial in live:
        heap.push((0.5, "same"), serial)
    assert heap.first(3) == ["b", "c", "a"]
