"""The highest of many ranks that are linear in time, without comparing all of them.

A kinetic tournament (Basch, Guibas, Hershberger, Data structures for mobile data, 1999): a binary
tree of matches, each with its winner and the time until which its subtree is valid. Two linear
ranks cross once, so a change costs O(log n) matches and the passage of time O(log² n) amortised.
"""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from math import inf, isclose
from typing import Final

from gateway.scheduling.dispatch import LinearRank

NO_SLOT: Final = -1


class KineticTournament:
    """Ranks by key; the highest at a given time is first, ties by order of entry.

    Leaves are nodes `capacity … 2·capacity - 1`, match `n` has the children `2n` and `2n + 1`, the
    root is 1. Time never runs backwards: an earlier time counts as the latest seen.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._slots: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._ranks: dict[int, LinearRank] = {}
        self._entered: dict[int, int] = {}
        self._entries = 0
        self._free = [0]
        self._capacity = 1
        self._winner = [NO_SLOT, NO_SLOT]
        self._valid_until_s = [inf, inf]

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, key: str, rank: LinearRank) -> None:
        """Add a key with its rank, or change the rank of a known key."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._take_slot(key)
        self._ranks[slot] = rank
        self._winner[self._capacity + slot] = slot
        self._climb(slot)

    def put_all(self, ranks: Mapping[str, LinearRank]) -> None:
        """Change the ranks of known keys, in O(n): for changes of all at once."""
        for key, rank in ranks.items():
            self._ranks[self._slots[key]] = rank
        self._replay()

    def discard(self, key: str) -> None:
        """Remove a key; an unknown one is ignored."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        del self._keys[slot], self._ranks[slot], self._entered[slot]
        self._free.append(slot)
        self._winner[self._capacity + slot] = NO_SLOT
        self._climb(slot)

    def ranked(self, now_s: float) -> Iterator[str]:
        """Keys from the highest rank down at `now_s`, O(log n) each. Change nothing meanwhile."""
        self._advance(now_s)
        heap: list[tuple[float, int, int]] = []
        self._enter(heap, 1)
        while heap:
            _, _, node = heappop(heap)
            slot = self._winner[node]
            yield self._keys[slot]
            while node < self._capacity:  # to the winner's leaf; the losers on the way are next
                node *= 2
                if self._winner[node] != slot:
                    node += 1
                self._enter(heap, node ^ 1)

    def _enter(self, heap: list[tuple[float, int, int]], node: int) -> None:
        slot = self._winner[node]
        if slot != NO_SLOT:
            heappush(heap, (-self._ranks[slot].at(self._now_s), self._entered[slot], node))

    def _advance(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
        if self._valid_until_s[1] <= self._now_s:
            self._refresh(1)

    def _refresh(self, node: int) -> None:
        for child in (2 * node, 2 * node + 1):
            if self._valid_until_s[child] <= self._now_s:
                self._refresh(child)
        self._play(node)

    def _take_slot(self, key: str) -> int:
        if not self._free:
            self._grow()
        slot = self._slots[key] = self._free.pop()
        self._keys[slot] = key
        self._entered[slot] = self._entries
        self._entries += 1
        return slot

    def _grow(self) -> None:
        self._free = list(range(2 * self._capacity - 1, self._capacity - 1, -1))
        self._capacity *= 2
        self._winner = [NO_SLOT] * (2 * self._capacity)
        self._valid_until_s = [inf] * (2 * self._capacity)
        for slot in self._ranks:
            self._winner[self._capacity + slot] = slot
        self._replay()

    def _replay(self) -> None:
        for node in range(self._capacity - 1, 0, -1):
            self._play(node)

    def _climb(self, slot: int) -> None:
        node = (self._capacity + slot) // 2
        while node:
            self._play(node)
            node //= 2

    def _play(self, node: int) -> None:
        """Compare the winners of both children; O(1)."""
        left, right = self._winner[2 * node], self._winner[2 * node + 1]
        valid_until_s = min(self._valid_until_s[2 * node], self._valid_until_s[2 * node + 1])
        if NO_SLOT in (left, right):
            self._winner[node] = left if right == NO_SLOT else right
            self._valid_until_s[node] = valid_until_s
            return
        first, second = self._ranks[left], self._ranks[right]
        lead = first.at(self._now_s) - second.at(self._now_s)
        if lead < 0 or (lead == 0 and self._entered[right] < self._entered[left]):
            left, first, second, lead = right, second, first, -lead
        self._winner[node] = left
        gains = second.slope - first.slope
        self._valid_until_s[node] = (
            min(valid_until_s, self._now_s + lead / gains) if gains > 0 else valid_until_s
        )

    def check(self) -> None:
        """AssertionError if a match contradicts the ranks."""
        assert len(self._slots) == len(self._keys) == len(self._ranks) == len(self._entered)
        ranks = {slot: rank.at(self._now_s) for slot, rank in self._ranks.items()}
        for slot, rank in ranks.items():
            highest = ranks[self._winner[1]]
            assert self._slots[self._keys[slot]] == slot
            assert rank <= highest or isclose(rank, highest, rel_tol=1e-9)
