"""The KV memory of sequences: private pages, shared pages, and pages in host memory."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from engine.kv.host import HostTier, SwappedPages
from engine.kv.node import PrefixNode
from engine.kv.pages import PagePool
from engine.kv.prefix import PrefixTree
from engine.kv.reservations import KvReservation, final_pages, peak_pages
from engine.protocol import Pin
from engine.step.sequence import SequenceState


@dataclass
class PageCopies:
    """Operations on pages before a step runs, in this order."""

    swap_out: list[tuple[SwappedPages, list[int]]] = field(default_factory=list)
    scrub: list[int] = field(default_factory=list)
    scrub_offloaded: list[int] = field(default_factory=list)
    # The pages receive the last pages of the copy.
    swap_in: list[tuple[SwappedPages, list[int]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is any operation."""
        return bool(self.swap_out or self.scrub or self.scrub_offloaded or self.swap_in)


class KvMemory:
    """Assigns pages to sequences; with `sharing`, equal prefixes are kept once.

    `copies` collects the page operations that the next step performs before it runs. Pins take at
    most `pin_share` of the pool.
    """

    def __init__(
        self, pool: PagePool, host: HostTier, *, sharing: bool = True, pin_share: float = 1.0
    ) -> None:
        self.pool = pool
        self.tree = PrefixTree(pool, pin_share)
        self.host = host
        self.sharing = sharing
        self.copies = PageCopies()

    @property
    def free(self) -> int:
        """Allocatable pages: unassigned ones, and cached ones that no sequence reads."""
        return self.pool.free + self.tree.unread

    def reservation(self, sequence: SequenceState) -> KvReservation:
        """The reservation of a running sequence."""
        return self._reserve(sequence, lambda node: node.shared)

    def fits(self, running: Iterable[SequenceState], candidate: SequenceState) -> bool:
        """Whether all reservations can be kept if the candidate runs too."""
        if self.free < _needed_to_start(candidate):
            return False
        cached_pages = sum(node.retained for node in self._cached_prefix(candidate))
        reservations = [
            KvReservation(candidate.length, candidate.reserved - candidate.generated, cached_pages),
            *map(self.reservation, running),
        ]
        return self._can_keep(reservations, self.pool.size - self.tree.shared)

    def fits_without(
        self,
        yielding: Sequence[SequenceState],
        running: Iterable[SequenceState],
        candidate: SequenceState,
    ) -> bool:
        """Whether `fits` holds once `yielding` do not run and pins that yield are released.

        `running` are the others; a pin yields to a candidate of a lower `preempt_first`.
        """
        readers = Counter(node for sequence in yielding for node in sequence.nodes)
        pins = Counter(
            node for pin in self.tree.yielding(candidate.preempt_first) for node in pin.nodes
        )

        def shared(node: PrefixNode) -> bool:
            return node.readers - readers[node] > 1 or node.pins > pins[node]

        def retained(node: PrefixNode) -> bool:
            return node.readers > readers[node] or node.pins > pins[node]

        left = readers.keys() | pins.keys()
        private = sum(len(sequence.pages) - len(sequence.nodes) for sequence in yielding)
        freed = sum(node.retained and not retained(node) for node in left)
        if self.free + private + freed < _needed_to_start(candidate):
            return False
        cached_pages = sum(map(retained, self._cached_prefix(candidate)))
        reservations = [
            KvReservation(candidate.length, candidate.reserved - candidate.generated, cached_pages),
            *(self._reserve(sequence, shared) for sequence in running),
        ]
        unshared = sum(node.shared and not shared(node) for node in left)
        return self._can_keep(reservations, self.pool.size - self.tree.shared + unshared)

    def restore(self, sequence: SequenceState) -> None:
        """Attach to a starting sequence what is present of it: cached prefix and swapped copy."""
        for node in self._cached_prefix(sequence):
            self.tree.add_reader(node)
            sequence.nodes.append(node)
            sequence.pages.append(node.page)
        sequence.computed = len(sequence.pages) * self.pool.page_tokens
        if sequence.reused is None:  # later, the pages are its own
            sequence.reused = sequence.computed
        swapped, sequence.swapped = sequence.swapped, None
        if swapped is None:
            return
        if swapped.tokens > sequence.computed:
            missing = self._allocate(swapped.pages - len(sequence.pages))
            self.copies.swap_in.append((swapped, missing))
            sequence.pages += missing
            sequence.computed = swapped.tokens
        self.host.discard(swapped)

    def missing(self, sequence: SequenceState, tokens: int) -> int:
        """The number of pages that a sequence lacks to hold this number of tokens."""
        return max(0, self.pool.pages_for(tokens) - len(sequence.pages))

    def grow(self, sequence: SequenceState, tokens: int) -> int:
        """Allocate pages for further tokens to compute; the number of tokens that fit."""
        capacity = len(sequence.pages) * self.pool.page_tokens - sequence.computed
        if capacity < tokens:
            missing = self.pool.pages_for(tokens - capacity)
            taken = self._allocate(min(missing, self.free))
            sequence.pages += taken
            capacity += len(taken) * self.pool.page_tokens
        return min(tokens, capacity)

    def extend_prefix(self, sequence: SequenceState) -> None:
        """Share further pages of a prompt that another sequence has computed in the meantime."""
        if not self._shareable(sequence):
            return
        full = sequence.computed // self.pool.page_tokens
        if len(sequence.pages) != full or len(sequence.nodes) != full:
            return
        for node in self._cached_prefix(sequence)[full:]:
            self.tree.add_reader(node)
            sequence.nodes.append(node)
            sequence.pages.append(node.page)
            sequence.computed += self.pool.page_tokens
            if sequence.reused is not None:
                sequence.reused += self.pool.page_tokens

    def cache_pages(self, sequence: SequenceState) -> None:
        """Put a sequence's newly filled pages into the prefix tree for reuse."""
        size = self.pool.page_tokens
        full = min(sequence.computed, len(sequence.tokens)) // size
        while self._shareable(sequence) and len(sequence.nodes) < full:
            index = len(sequence.nodes)
            parent = sequence.nodes[-1] if index else self.tree.root(sequence.salt)
            key = tuple(sequence.tokens[index * size : (index + 1) * size])
            node = self.tree.add(parent, key, sequence.pages[index])
            if node is None:
                sequence.cacheable = False
                return
            self.tree.add_reader(node)
            sequence.nodes.append(node)

    def swap_out(self, sequence: SequenceState) -> None:
        """Free a sequence's pages; copy them to the host if that beats recomputing."""
        pages = self.pool.pages_for(sequence.computed)
        swapped = None
        if pages:
            swapped = self.host.reserve(pages, sequence.computed, background=sequence.background)
        if swapped is not None:
            kept = [copy for copy in self.copies.swap_out if copy[0].pages]  # others were given up
            self.copies.swap_out = [*kept, (swapped, sequence.pages[:pages])]
        self.release(sequence)
        sequence.swapped = swapped

    def release(self, sequence: SequenceState) -> None:
        """Free all memory of a sequence; full pages stay cached until their memory is needed."""
        self.tree.release(sequence.nodes)
        self.pool.release(sequence.pages[len(sequence.nodes) :])
        self._clear_pages(sequence)
        if sequence.swapped is not None:
            self.host.discard(sequence.swapped)
            sequence.swapped = None

    def release_invalid(self, sequence: SequenceState) -> None:
        """Free a sequence whose keys or values are not finite; its pages are zeroed, not cached.

        A pin of these pages is not lost: it waits for a sequence that computes them again.
        """
        own, nodes = sequence.pages[len(sequence.nodes) :], sequence.nodes
        self.tree.release(nodes)
        pages = own + self.tree.remove_subtree(nodes)
        self.copies.scrub += pages
        self.pool.release(pages)
        self._clear_pages(sequence)

    def reset(self, pages: int | None = None) -> None:
        """Drop the content of all pages; none may be in use. `pages`: new size of the pool.

        Pins stay and wait for their pages to be computed again, unless a smaller pool has no room
        for them.
        """
        self.tree.clear()
        self.copies = PageCopies()
        if pages is not None:
            self.pool.shrink(pages)
            self.tree.enforce_share()

    def pin(self, pin: Pin) -> None:
        """Pin a prefix; without sharing no page is kept, so a pin has no effect and is not lost."""
        if self.sharing:
            self.tree.pin(pin.name, pin.salt, pin.tokens, pin.preempt_first)

    def take_unpinned(self) -> list[str]:
        """The pins lost since the last call."""
        lost = list(self.tree.lost)
        self.tree.lost.clear()
        return lost

    def take_copies(self) -> PageCopies:
        """Take the page operations for the next step."""
        copies, self.copies = self.copies, PageCopies()
        return copies

    def check(self, sequences: Sequence[SequenceState]) -> None:
        """AssertionError unless each page is free, in the tree, or owned by a single sequence."""
        nodes = list(self.tree.nodes())
        own = [sequence.pages[len(sequence.nodes) :] for sequence in sequences]
        self.pool.check([[node.page for node in nodes], *own])
        for sequence in sequences:
            assert [node.page for node in sequence.nodes] == sequence.pages[: len(sequence.nodes)]
        for node in nodes:
            readers = sum(node in sequence.nodes for sequence in sequences)
            assert node.readers == readers, f"page {node.page} has a wrong reader count"
        assert len(nodes) == len(self.tree)
        assert self.tree.unread == sum(not node.retained for node in nodes)
        assert self.tree.shared == sum(node.shared for node in nodes)
        assert self.tree.pinned == sum(node.pins > 0 for node in nodes)
        self.tree.check_pins()
        swapped = sum(s.swapped.pages for s in sequences if s.swapped is not None)
        assert self.host.used == swapped, "the host tier keeps pages of no sequence"

    def _reserve(
        self, sequence: SequenceState, shared: Callable[[PrefixNode], bool]
    ) -> KvReservation:
        """The reservation of a running sequence, given which nodes are shared."""
        remaining = sequence.reserved - sequence.generated - sequence.in_flight
        pages = bisect_left(sequence.nodes, True, key=lambda node: not shared(node))
        return KvReservation(sequence.length, max(remaining, 0), pages)

    def _can_keep(self, reservations: list[KvReservation], capacity: int) -> bool:
        page_tokens = self.pool.page_tokens
        if sum(final_pages(reservation, page_tokens) for reservation in reservations) <= capacity:
            return True
        return peak_pages(reservations, page_tokens) <= capacity

    def _cached_prefix(self, sequence: SequenceState) -> list[PrefixNode]:
        """The cached nodes of a sequence's prefix; at least one token is left to compute."""
        if not self._shareable(sequence):
            return []
        max_pages = (len(sequence.tokens) - 1) // self.pool.page_tokens
        return self.tree.match(sequence.salt, sequence.tokens, max_pages)

    def _shareable(self, sequence: SequenceState) -> bool:
        return self.sharing and sequence.cacheable and not sequence.padding

    def _allocate(self, count: int) -> list[int]:
        if count > self.pool.free:
            self.tree.evict(count - self.pool.free)
        return self.pool.allocate(count)

    def _clear_pages(self, sequence: SequenceState) -> None:
        sequence.nodes = []
        sequence.pages = []
        sequence.computed = 0
        sequence.cacheable = True


def _needed_to_start(candidate: SequenceState) -> int:
    """Pages that must be free when a sequence starts."""
    return max(candidate.swapped.pages, 1) if candidate.swapped else 1
