"""The highest of many ranks that change with time, without looking at all of them.

A kinetic tournament (Basch, Guibas, Hershberger, Data structures for mobile data, 1999): a binary
tree of matches, each with its winner and the time until which it and all below it stand. Two lines
cross once, so a change costs O(log n) matches and the passing of time O(log² n) amortised.
"""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from math import inf, isclose
from typing import Final

from gateway.scheduling.dispatch import RankLine

NOBODY: Final = -1


class KineticTournament:
    """Lines by key; the highest at a time is first, and of equals the one entered first.

    Leaves are slots `capacity … 2·capacity - 1`, match `n` has the children `2n` and `2n + 1`,
    the final is 1. Time never runs backwards: an earlier one counts as the latest seen.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._slots: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._lines: dict[int, RankLine] = {}
        self._entered: dict[int, int] = {}
        self._entries = 0
        self._free = [0]
        self._capacity = 1
        self._winner = [NOBODY, NOBODY]
        self._stands_s = [inf, inf]

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, key: str, line: RankLine) -> None:
        """Enter a line, or change the one of this key."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._take_slot(key)
        self._lines[slot] = line
        self._winner[self._capacity + slot] = slot
        self._climb(slot)

    def put_all(self, lines: Mapping[str, RankLine]) -> None:
        """Change the lines of keys already entered: O(n), for when all change at once."""
        for key, line in lines.items():
            self._lines[self._slots[key]] = line
        self._replay()

    def discard(self, key: str) -> None:
        """Let a line go, if it is there."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        del self._keys[slot], self._lines[slot], self._entered[slot]
        self._free.append(slot)
        self._winner[self._capacity + slot] = NOBODY
        self._climb(slot)

    def ranked(self, now_s: float) -> Iterator[str]:
        """Keys from the highest down at `now_s`; each costs O(log n). No change while it runs."""
        self._advance(now_s)
        heap: list[tuple[float, int, int]] = []
        self._enter(heap, 1)
        while heap:
            _, _, node = heappop(heap)
            slot = self._winner[node]
            yield self._keys[slot]
            while node < self._capacity:  # down to the winner's leaf; those it beat come next
                node *= 2
                if self._winner[node] != slot:
                    node += 1
                self._enter(heap, node ^ 1)

    def _enter(self, heap: list[tuple[float, int, int]], node: int) -> None:
        slot = self._winner[node]
        if slot != NOBODY:
            heappush(heap, (-self._lines[slot].at(self._now_s), self._entered[slot], node))

    def _advance(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
        if self._stands_s[1] <= self._now_s:
            self._refresh(1)

    def _refresh(self, node: int) -> None:
        for child in (2 * node, 2 * node + 1):
            if self._stands_s[child] <= self._now_s:
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
        self._winner = [NOBODY] * (2 * self._capacity)
        self._stands_s = [inf] * (2 * self._capacity)
        for slot in self._lines:
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
        """Let the winners of both children meet; O(1)."""
        left, right = self._winner[2 * node], self._winner[2 * node + 1]
        stands_s = min(self._stands_s[2 * node], self._stands_s[2 * node + 1])
        if NOBODY in (left, right):
            self._winner[node] = left if right == NOBODY else right
            self._stands_s[node] = stands_s
            return
        first, second = self._lines[left], self._lines[right]
        lead = first.at(self._now_s) - second.at(self._now_s)
        if lead < 0 or (lead == 0 and self._entered[right] < self._entered[left]):
            left, first, second, lead = right, second, first, -lead
        self._winner[node] = left
        gains = second.slope - first.slope
        self._stands_s[node] = min(stands_s, self._now_s + lead / gains) if gains > 0 else stands_s

    def check(self) -> None:
        """AssertionError where a match stands that the ranks contradict."""
        assert len(self._slots) == len(self._keys) == len(self._lines) == len(self._entered)
        ranks = {slot: line.at(self._now_s) for slot, line in self._lines.items()}
        for slot, rank in ranks.items():
            highest = ranks[self._winner[1]]
            assert self._slots[self._keys[slot]] == slot
            assert rank <= highest or isclose(rank, highest, rel_tol=1e-9)
