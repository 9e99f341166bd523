"""The KV memory of sequences: pages of their own, pages they share, pages on the host."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.kv.host import HostTier, Swapped
from engine.kv.pages import PagePool
from engine.kv.prefix import Node, PrefixTree
from engine.kv.reservations import Claim, last_pages, peak_pages
from engine.step.sequence import LiveSequence


@dataclass
class Copies:
    """What is to be done to pages before a step runs, in this order."""

    out: list[tuple[Swapped, list[int]]] = field(default_factory=list)
    scrub: list[int] = field(default_factory=list)
    back: list[tuple[Swapped, list[int]]] = field(default_factory=list)  # the copy's last pages

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.out or self.scrub or self.back)


class KvMemory:
    """Who has which page; `sharing` says whether equal prefixes are kept once.

    `copies` collects what the next step has to move before it runs.
    """

    def __init__(self, pool: PagePool, host: HostTier, *, sharing: bool = True) -> None:
        self.pool = pool
        self.tree = PrefixTree(pool)
        self.host = host
        self.sharing = sharing
        self.copies = Copies()

    @property
    def free(self) -> int:
        """Pages to be had: free ones, and those kept only because they may be read again."""
        return self.pool.free + self.tree.idle

    def claim(self, sequence: LiveSequence) -> Claim:
        """What a running sequence holds and is promised."""
        remaining = sequence.reserved - sequence.generated - sequence.ahead
        shared = bisect_left(sequence.nodes, True, key=lambda node: not node.shared)
        return Claim(sequence.length, max(remaining, 0), shared)

    def fits(self, running: Iterable[LiveSequence], newcomer: LiveSequence) -> bool:
        """Whether all reservations can be kept if one more sequence runs."""
        room = self.pool.size - self.tree.shared
        remaining = newcomer.reserved - newcomer.generated
        known = sum(node.kept for node in self._known(newcomer))
        if self.free < (newcomer.swapped.pages if newcomer.swapped else 1):
            return False
        claims = [Claim(newcomer.length, remaining, known), *map(self.claim, running)]
        page_tokens = self.pool.page_tokens
        if sum(last_pages(claim, page_tokens) for claim in claims) <= room:
            return True
        return peak_pages(claims, page_tokens) <= room

    def begin(self, sequence: LiveSequence) -> None:
        """Give a sequence about to run what is there of it: a known prefix, a swapped copy."""
        for node in self._known(sequence):
            self.tree.hold(node)
            sequence.nodes.append(node)
            sequence.pages.append(node.page)
        sequence.computed = len(sequence.pages) * self.pool.page_tokens
        swapped, sequence.swapped = sequence.swapped, None
        if swapped is None:
            return
        if swapped.tokens > sequence.computed:
            missing = self._take(swapped.pages - len(sequence.pages))
            self.copies.back.append((swapped, missing))
            sequence.pages += missing
            sequence.computed = swapped.tokens
        self.host.discard(swapped)

    def missing(self, sequence: LiveSequence, tokens: int) -> int:
        """Pages a sequence lacks to hold so many tokens."""
        return max(0, self.pool.pages_for(tokens) - len(sequence.pages))

    def grow(self, sequence: LiveSequence, tokens: int) -> int:
        """Pages for so many tokens more than are computed; how many of them there is room for."""
        room = len(sequence.pages) * self.pool.page_tokens - sequence.computed
        if room < tokens:
            missing = self.pool.pages_for(tokens - room)
            taken = self._take(min(missing, self.free))
            sequence.pages += taken
            room += len(taken) * self.pool.page_tokens
        return min(tokens, room)

    def adopt(self, sequence: LiveSequence) -> None:
        """Take over further pages of a prompt that another sequence has computed meanwhile."""
        if not self._listed(sequence):
            return
        full = sequence.computed // self.pool.page_tokens
        if len(sequence.pages) != full or len(sequence.nodes) != full:
            return
        for node in self._known(sequence)[full:]:
            self.tree.hold(node)
            sequence.nodes.append(node)
            sequence.pages.append(node.page)
            sequence.computed += self.pool.page_tokens

    def list_pages(self, sequence: LiveSequence) -> None:
        """Put a sequence's newly full pages into the prefix tree, for whoever comes."""
        size = self.pool.page_tokens
        full = min(sequence.computed, len(sequence.tokens)) // size
        while self._listed(sequence) and len(sequence.nodes) < full:
            place = len(sequence.nodes)
            parent = sequence.nodes[-1] if place else self.tree.root(sequence.salt)
            key = tuple(sequence.tokens[place * size : (place + 1) * size])
            node = self.tree.add(parent, key, sequence.pages[place])
            if node is None:
                sequence.listing = False
                return
            self.tree.hold(node)
            sequence.nodes.append(node)

    def swap_out(self, sequence: LiveSequence) -> None:
        """Free a sequence's pages; a copy goes to the host where that pays."""
        pages = self.pool.pages_for(sequence.computed)
        swapped = self.host.reserve(pages, sequence.computed) if pages else None
        if swapped is not None:
            self.copies.out.append((swapped, sequence.pages[:pages]))
        self.release(sequence)
        sequence.swapped = swapped

    def release(self, sequence: LiveSequence) -> None:
        """Free all a sequence has; full pages stay known until they are needed."""
        self.tree.release(sequence.nodes)
        self.pool.give_back(sequence.pages[len(sequence.nodes) :])
        self._forget_pages(sequence)
        if sequence.swapped is not None:
            self.host.discard(sequence.swapped)
            sequence.swapped = None

    def poison(self, sequence: LiveSequence) -> None:
        """Free a sequence whose keys or values are no numbers: nobody may meet them again."""
        own, nodes = sequence.pages[len(sequence.nodes) :], sequence.nodes
        self.tree.release(nodes)
        pages = own + self.tree.drop(nodes)
        self.copies.scrub += pages
        self.pool.give_back(pages)
        self._forget_pages(sequence)

    def reset(self, pages: int | None = None) -> None:
        """Forget every page's content; nobody may hold any. `pages` are left of the pool."""
        self.tree.clear()
        self.copies = Copies()
        if pages is not None:
            self.pool.shrink(pages)

    def take_copies(self) -> Copies:
        """What the next step has to move."""
        copies, self.copies = self.copies, Copies()
        return copies

    def check(self, holders: Sequence[LiveSequence]) -> None:
        """AssertionError unless every page is free, in the tree, or of one sequence alone."""
        nodes = list(self.tree.nodes())
        own = [sequence.pages[len(sequence.nodes) :] for sequence in holders]
        self.pool.check([[node.page for node in nodes], *own])
        for sequence in holders:
            assert [node.page for node in sequence.nodes] == sequence.pages[: len(sequence.nodes)]
        for node in nodes:
            readers = sum(node in sequence.nodes for sequence in holders)
            assert node.readers == readers, f"page {node.page} counts readers it does not have"
        assert len(nodes) == len(self.tree)
        assert self.tree.idle == sum(not node.kept for node in nodes)
        assert self.tree.shared == sum(node.shared for node in nodes)
        swapped = sum(s.swapped.pages for s in holders if s.swapped is not None)
        assert self.host.used == swapped, "the host tier keeps pages of nobody"

    def _known(self, sequence: LiveSequence) -> list[Node]:
        """Nodes of a sequence's prefix; at least one token is left to compute."""
        if not self._listed(sequence):
            return []
        most = (len(sequence.tokens) - 1) // self.pool.page_tokens
        return self.tree.match(sequence.salt, sequence.tokens, most)

    def _listed(self, sequence: LiveSequence) -> bool:
        return self.sharing and sequence.listing and not sequence.padding

    def _take(self, count: int) -> list[int]:
        if count > self.pool.free:
            self.tree.evict(count - self.pool.free)
        return self.pool.take(count)

    def _forget_pages(self, sequence: LiveSequence) -> None:
        sequence.nodes = []
        sequence.pages = []
        sequence.computed = 0
        sequence.listing = True
