"""A page in the prefix tree."""

from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[int, ...]  # the tokens of one page


@dataclass(eq=False, slots=True)
class PrefixNode:
    """One full page, its position in the tree, and its readers and pins."""

    parent: "PrefixNode | None"
    key: Key
    page: int
    children: dict[Key, "PrefixNode"] = field(default_factory=dict)
    readers: int = 0
    pins: int = 0
    last_used: int = 0

    @property
    def retained(self) -> bool:
        """Whether it is protected from eviction."""
        return self.readers > 0 or self.pins > 0

    @property
    def shared(self) -> bool:
        """Whether it stays protected when one of its readers leaves."""
        return self.readers > 1 or self.pins > 0
