"""Pages of shared prefixes in a simulated engine: present, read, pinned, kept for reuse."""

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.replay.engine.sequence import SimulatedSequence


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


class PrefixReaders:
    """How many pages of a prefix each sequence reads, from its start."""

    __slots__ = ("_all_pages", "_whole", "partial")

    def __init__(self, all_pages: int) -> None:
        self._all_pages = all_pages
        self._whole = 0  # sequences that read all pages
        self.partial: dict[int, int] = {}  # pages, by the arrival number of others

    def change(self, arrival: int, before: int, after: int) -> None:
        """A sequence reads `after` pages, and read `before`."""
        if before == self._all_pages:
            self._whole -= 1
        elif before:
            del self.partial[arrival]
        if after == self._all_pages:
            self._whole += 1
        elif after:
            self.partial[arrival] = after

    @property
    def most(self) -> list[int]:
        """The pages of the two that read most; 0 for no sequence."""
        whole = [self._all_pages] * min(self._whole, 2)
        return [*whole, *sorted(self.partial.values(), reverse=True), 0, 0][:2]


class PrefixPages:
    """Pages of a prefix: the first `present` are in the pool.

    Of these the first `retained` are read or pinned; the others are in the cache, of which the
    page furthest from the start was released first. `shared` pages stay when a reader leaves.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.present = 0
        self.pinned = False
        self.used = 0  # when it was pinned or last changed readers; rises
        self.members: dict[int, SimulatedSequence] = {}  # running ones, by arrival number
        self.shared = 0
        self._readers = PrefixReaders(pages), PrefixReaders(pages)  # interactive, background
        self._cached: list[CachedPages] = []  # nearest to the start last

    @property
    def retained(self) -> int:
        """Pages from the start that are read or pinned."""
        return self.present if self.pinned else self.most_read()[0]

    @property
    def unread(self) -> int:
        """Pages that can be evicted."""
        return self.present - self.retained

    @property
    def empty(self) -> bool:
        """Whether nothing is known of it."""
        return not (self.present or self.pinned or self.members)

    def most_read(self) -> list[int]:
        """The pages of the two sequences that read most."""
        interactive, background = self._readers
        return sorted((*interactive.most, *background.most), reverse=True)[:2]

    def read(self, sequence: "SimulatedSequence", pages: int) -> None:
        """A sequence reads this number of pages."""
        readers = self._readers[sequence.background]
        readers.change(sequence.arrival, sequence.prefix_pages, pages)
        sequence.prefix_pages = pages

    def shared_now(self) -> int:
        """Pages that are pinned or have two readers."""
        return self.present if self.pinned else self.most_read()[1]

    def without_background(self) -> tuple[int, int]:
        """Retained and shared pages if background sequences and all pins were gone."""
        retained, shared = self._readers[False].most
        return retained, shared

    def move(self, unread_before: int, cache: PageCache) -> int:
        """Put pages into the cache, or take them back; returns by how many the free ones rise."""
        rise = self.unread - unread_before
        if rise > 0:
            self._cached.append(cache.add(rise, self))
        taken = -rise
        while taken > 0:
            nearest = self._cached[-1]
            count = min(nearest.count, taken)
            cache.take(nearest, count)
            taken -= count
            if not nearest.count:
                self._cached.pop()
        self._cached = [cached for cached in self._cached if cached.count]
        return rise
