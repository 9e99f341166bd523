"""Pages that no sequence reads: kept for reuse until their memory is needed."""

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.replay.engine.prefix_pages import PrefixPages


class CachedPages:
    """Unread pages released together, consecutive ones of a prompt; the last is evicted first.

    `prefix` is the shared prefix that they belong to; None for a sequence's own pages.
    """

    __slots__ = ("count", "prefix")

    def __init__(self, count: int, prefix: "PrefixPages | None") -> None:
        self.count = count
        self.prefix = prefix


class PageCache:
    """Unread pages, the least recently released evicted first, as in the engine's prefix tree."""

    def __init__(self) -> None:
        self.pages = 0
        self._released: OrderedDict[CachedPages, None] = OrderedDict()

    def add(self, count: int, prefix: "PrefixPages | None" = None) -> CachedPages:
        """Keep pages that were released now."""
        cached = CachedPages(count, prefix)
        self._released[cached] = None
        self.pages += count
        return cached

    def take(self, cached: CachedPages, count: int) -> None:
        """The first `count` of these pages are read again."""
        self._remove(cached, count)

    def evict(self, count: int) -> None:
        """Drop this number of pages; there are that many."""
        while count > 0:
            oldest = next(iter(self._released))
            gone = min(oldest.count, count)
            count -= gone
            if oldest.prefix is not None:
                oldest.prefix.present -= gone
            self._remove(oldest, gone)

    def check(self) -> None:
        """AssertionError if the counts disagree; for tests."""
        assert self.pages == sum(cached.count for cached in self._released)
        assert all(cached.count > 0 for cached in self._released)

    def _remove(self, cached: CachedPages, count: int) -> None:
        cached.count -= count
        self.pages -= count
        if not cached.count:
            del self._released[cached]
