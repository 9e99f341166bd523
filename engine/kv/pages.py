"""The pool of free KV pages."""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush


class PagePool:
    """Page ids 0 … size-1. Allocates the lowest free id first, which keeps used pages together."""

    def __init__(self, size: int, page_tokens: int) -> None:
        self.size = size
        self.page_tokens = page_tokens
        self._free = list(range(size))

    @property
    def free(self) -> int:
        """The number of free pages."""
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        """The number of pages that hold this number of tokens."""
        return -(-tokens // self.page_tokens)

    def allocate(self, count: int) -> list[int]:
        """Allocate pages. MemoryError if too few are free."""
        if count > len(self._free):
            raise MemoryError(f"{count} KV pages requested, {len(self._free)} free")
        return [heappop(self._free) for _ in range(count)]

    def release(self, pages: Iterable[int]) -> None:
        """Return pages to the pool."""
        for page in pages:
            heappush(self._free, page)

    def shrink(self, size: int) -> None:
        """Reduce the pool to pages 0 … size-1; all must be free."""
        assert len(self._free) == self.size, "the pool shrinks while pages are owned"
        self.size = size
        self._free = list(range(size))

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """AssertionError unless each page is free or in exactly one of these page tables."""
        owners = Counter(self._free)
        for table in tables:
            owners.update(table)
        duplicated = sorted(page for page, count in owners.items() if count > 1)
        lost = sorted(set(range(self.size)) - owners.keys())
        unknown = sorted(owners.keys() - set(range(self.size)))
        assert not duplicated, f"pages owned more than once: {duplicated}"
        assert not lost, f"pages neither free nor owned: {lost}"
        assert not unknown, f"pages that do not exist: {unknown}"
