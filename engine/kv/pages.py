"""The pages of KV memory that nobody owns."""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush


class PagePool:
    """Page ids 0 … size-1, lowest free id first, so that what is in use stays close together."""

    def __init__(self, size: int, page_tokens: int) -> None:
        self.size = size
        self.page_tokens = page_tokens
        self._free = list(range(size))

    @property
    def free(self) -> int:
        """Pages nobody owns."""
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        """Pages that hold this many tokens."""
        return -(-tokens // self.page_tokens)

    def allocate(self, count: int) -> list[int]:
        """As many free pages, the caller's from now on. MemoryError if there are too few."""
        if count > len(self._free):
            raise MemoryError(f"{count} KV pages asked for, {len(self._free)} free")
        return [heappop(self._free) for _ in range(count)]

    def release(self, pages: Iterable[int]) -> None:
        """These pages are free again."""
        for page in pages:
            heappush(self._free, page)

    def shrink(self, size: int) -> None:
        """Only pages 0 … size-1 are left; none may be owned."""
        assert len(self._free) == self.size, "a page is owned while the pool shrinks"
        self.size = size
        self._free = list(range(size))

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """AssertionError unless every page is free or in exactly one of these page tables."""
        owners = Counter(self._free)
        for table in tables:
            owners.update(table)
        doubled = sorted(page for page, count in owners.items() if count > 1)
        lost = sorted(set(range(self.size)) - owners.keys())
        strange = sorted(owners.keys() - set(range(self.size)))
        assert not doubled, f"pages owned more than once: {doubled}"
        assert not lost, f"pages neither free nor owned: {lost}"
        assert not strange, f"pages that do not exist: {strange}"
