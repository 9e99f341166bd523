"""Pinned prefixes: whose they are, how many pages they take together, which is released first."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias

from engine.kv.node import Key, PrefixNode

Path: TypeAlias = int  # the hash of a salt and of all keys down to a page


@dataclass(eq=False, slots=True)
class Pin:
    """A pinned prefix: the keys of its pages, and the nodes found so far."""

    name: str
    salt: str
    keys: list[Key]
    preempt_first: int
    made: int
    nodes: list[PrefixNode] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """One for each page of the prefix; equal prefixes of two pins have equal paths."""
        paths = accumulate(self.keys, lambda path, key: hash((path, key)), initial=hash(self.salt))
        return list(paths)[1:]

    @property
    def release_order(self) -> tuple[int, bool, int]:
        """The lowest is released first: the highest `preempt_first`, then unread, then unused."""
        last = self.nodes[-1] if self.nodes else None
        used = max(self.made, last.last_used) if last else self.made
        return -self.preempt_first, bool(last and last.readers), used


class PinnedPages:
    """The pages that all pins take together, those to come included; a common page counts once."""

    def __init__(self) -> None:
        self._pins: Counter[Path] = Counter()

    def __len__(self) -> int:
        """The number of pages."""
        return len(self._pins)

    def with_paths(self, paths: Iterable[Path]) -> int:
        """The number of pages if a pin of these paths came."""
        return len(self) + sum(path not in self._pins for path in paths)

    def add(self, paths: Sequence[Path]) -> None:
        """Count a pin."""
        self._pins.update(paths)

    def remove(self, paths: Sequence[Path]) -> None:
        """Count a pin no more."""
        self._pins.subtract(paths)
        for path in paths:
            if not self._pins[path]:
                del self._pins[path]
