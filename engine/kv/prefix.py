"""A prefix tree of full pages by their tokens, so that equal prefixes are computed and kept once.

A node is one full page; the path from the root holds the exact tokens from the sequence's start.
Each salt has its own root, so sequences of different salts share nothing.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from engine.kv.node import Key, PrefixNode
from engine.kv.pages import PagePool
from engine.kv.pins import Pin, PinnedPages

MAX_STALE_PER_PAGE: Final = 4  # entries of the eviction queue per page in the tree


class PrefixTree:
    """Finds full pages by content; unread pages stay until their memory is needed.

    A reader of a node reads all nodes above it, so reader counts never increase towards the leaves
    and the subtree of an unread node is unread. Pins take at most `pin_share` of the pool, the
    pages to come included; `lost` are those released, or not made, for lack of memory.
    """

    def __init__(self, pool: PagePool, pin_share: float = 1.0) -> None:
        self._pool = pool
        self._pin_share = pin_share
        self._roots: dict[str, PrefixNode] = {}
        self._pins: dict[str, Pin] = {}
        self._waiting_pins: dict[tuple[PrefixNode, Key], list[Pin]] = {}
        self._pinned_pages = PinnedPages()
        self.lost: dict[str, None] = {}  # names in order, until they are reported
        # A heap of unread leaves by last use; entries may be stale.
        self._eviction_queue: list[tuple[int, int, PrefixNode]] = []
        self._clock = count(1)
        self._size = 0
        self._retained = 0
        self.shared = 0
        self.pinned = 0
        self.pins_made = 0
        self.pins_lost = 0

    def __len__(self) -> int:
        """The number of pages in the tree."""
        return self._size

    @property
    def unread(self) -> int:
        """The number of pages without reader or pin, which can be evicted."""
        return self._size - self._retained

    def root(self, salt: str) -> PrefixNode:
        """The root of a salt's prefixes."""
        if salt not in self._roots:
            self._roots[salt] = PrefixNode(None, (), -1)
        return self._roots[salt]

    def match(self, salt: str, tokens: Sequence[int], max_pages: int) -> list[PrefixNode]:
        """The nodes of the longest cached prefix, at most `max_pages`."""
        node = self._roots.get(salt)
        found: list[PrefixNode] = []
        while node is not None and len(found) < max_pages:
            node = node.children.get(self._key(tokens, len(found)))
            if node is not None:
                found.append(node)
        return found

    def add(self, parent: PrefixNode, key: Key, page: int) -> PrefixNode | None:
        """Add the caller's page below a node, unread; None if its content is already there."""
        if key in parent.children:
            return None
        node = parent.children[key] = PrefixNode(parent, key, page)
        self._size += 1
        self._enqueue(node)
        for pin in self._waiting_pins.pop((parent, key), []):
            self._pin(pin, node)
        return node

    def add_reader(self, node: PrefixNode) -> None:
        """Count one more sequence that reads this node."""
        self._update_counts(node, readers=1)

    def release(self, nodes: Sequence[PrefixNode]) -> None:
        """Remove a reader from these nodes, a path from the root."""
        for node in reversed(nodes):
            self._update_counts(node, readers=-1)

    def evict(self, pages: int) -> None:
        """Free up to `pages` unread pages, the least recently used leaves first."""
        while pages > 0 and self._eviction_queue:
            last_used, page, node = heappop(self._eviction_queue)
            if _evictable(last_used, page, node):
                self._remove(node)
                self._pool.release([page])
                pages -= 1

    def remove_subtree(self, nodes: Sequence[PrefixNode]) -> list[int]:
        """Remove the unread nodes of a path and all below; their pages now belong to the caller."""
        first = next((node for node in nodes if node.parent is not None and not node.readers), None)
        if first is None:
            return []
        subtree = list(_subtree(first))
        affected = [pin for pin in self._pins.values() if not set(subtree).isdisjoint(pin.nodes)]
        for pin in affected:
            self._detach(pin)
        for node in reversed(subtree):
            self._remove(node)
        for pin in affected:
            self._attach(pin)
        return [node.page for node in subtree]

    def clear(self) -> None:
        """Free all pages; none may have a reader. Pins wait for their prefixes to be recomputed."""
        for root in list(self._roots.values()):
            for child in list(root.children.values()):
                self._pool.release(self.remove_subtree([child]))

    def pin(self, name: str, salt: str, tokens: Sequence[int], preempt_first: int = 0) -> None:
        """Protect the full pages of a prefix from eviction, present and future ones.

        Replaces a pin of this name. It is lost if all pins would take more than their share.
        """
        full = len(tokens) // self._pool.page_tokens
        keys = [self._key(tokens, index) for index in range(full)]
        present = self._pins.get(name)
        if present and (present.salt, present.keys) == (salt, keys):
            present.preempt_first, present.made = preempt_first, next(self._clock)
            return
        self.unpin(name)
        pin = Pin(name, salt, keys, preempt_first, next(self._clock))
        self.pins_made += 1
        if self._pinned_pages.with_paths(pin.paths) > self._max_pinned:
            self.lose(name)
            return
        self._pins[name] = pin
        self._pinned_pages.add(pin.paths)
        self._attach(pin)

    def unpin(self, name: str) -> None:
        """Release a pinned prefix, or do not report its loss; an unknown name is ignored."""
        self.lost.pop(name, None)
        pin = self._pins.pop(name, None)
        if pin is not None:
            self._pinned_pages.remove(pin.paths)
            self._detach(pin)

    def unpin_all(self) -> None:
        """Release all pinned prefixes and report none: their owner is gone."""
        for name in list(self._pins):
            self.unpin(name)
        self.lost.clear()

    def lose(self, name: str) -> None:
        """Release a pin, if it was made, and report that."""
        self.unpin(name)
        self.lost[name] = None
        self.pins_lost += 1

    def lose_all(self) -> None:
        """Release all pins and report that."""
        for name in list(self._pins):
            self.lose(name)

    def yield_pin(self, above: int = -1) -> bool:
        """Release one pin with a `preempt_first` above this one; False if there is none.

        The highest goes first; of those, one that is not read, and the least recently used.
        """
        yielding = self.yielding(above)
        if yielding:
            self.lose(min(yielding, key=lambda pin: pin.release_order).name)
        return bool(yielding)

    def yielding(self, above: int) -> list[Pin]:
        """The pins with a `preempt_first` above this one."""
        return [pin for pin in self._pins.values() if pin.preempt_first > above]

    def enforce_share(self) -> None:
        """Release pins until all are within their share: the pool may have shrunk."""
        while len(self._pinned_pages) > self._max_pinned and self.yield_pin():
            pass

    def check_pins(self) -> None:
        """AssertionError unless pins hold a path from the root and stay within their share."""
        assert len(self._pinned_pages) <= self._max_pinned
        assert self.pinned <= len(self._pinned_pages)
        assert not self._pins.keys() & self.lost.keys(), "a pin is held and lost"
        for pin in self._pins.values():
            assert [node.key for node in pin.nodes] == pin.keys[: len(pin.nodes)]

    def nodes(self) -> Iterator[PrefixNode]:
        """Every node, parents before children."""
        for root in self._roots.values():
            for child in root.children.values():
                yield from _subtree(child)

    def _key(self, tokens: Sequence[int], index: int) -> Key:
        size = self._pool.page_tokens
        return tuple(tokens[index * size : (index + 1) * size])

    @property
    def _max_pinned(self) -> int:
        return int(self._pin_share * self._pool.size)

    def _attach(self, pin: Pin) -> None:
        """Pin the pages that are present; wait for the first missing one."""
        if not pin.keys:
            return
        parent = self.root(pin.salt)
        node = parent.children.get(pin.keys[0])
        if node is None:
            self._waiting_pins.setdefault((parent, pin.keys[0]), []).append(pin)
        else:
            self._pin(pin, node)

    def _detach(self, pin: Pin) -> None:
        """Undo `_attach`."""
        self._waiting_pins = {
            place: remaining
            for place, pins in self._waiting_pins.items()
            if (remaining := [other for other in pins if other is not pin])
        }
        for node in reversed(pin.nodes):
            self._update_counts(node, pins=-1)
        pin.nodes = []

    def _pin(self, pin: Pin, node: PrefixNode | None) -> None:
        """Pin a node and the prefix's nodes below it; wait for the first missing one."""
        while node is not None:
            self._update_counts(node, pins=1)
            pin.nodes.append(node)
            if len(pin.nodes) == len(pin.keys):
                return
            key = pin.keys[len(pin.nodes)]
            parent, node = node, node.children.get(key)
            if node is None:
                self._waiting_pins.setdefault((parent, key), []).append(pin)

    def _update_counts(self, node: PrefixNode, readers: int = 0, pins: int = 0) -> None:
        retained, shared, pinned = node.retained, node.shared, node.pins > 0
        node.readers += readers
        node.pins += pins
        self._retained += node.retained - retained
        self.shared += node.shared - shared
        self.pinned += (node.pins > 0) - pinned
        if readers and node.pins:
            node.last_used = next(self._clock)  # of its pins
        if not node.retained:
            self._enqueue(node)

    def _enqueue(self, node: PrefixNode) -> None:
        """Queue an unread leaf for eviction, as the most recently used one."""
        node.last_used = next(self._clock)
        if not node.children:
            self._push_leaf(node)

    def _remove(self, node: PrefixNode) -> None:
        parent = node.parent
        assert parent is not None
        del parent.children[node.key]
        node.parent = None
        self._size -= 1
        if not parent.children and not parent.retained and parent.parent is not None:
            self._push_leaf(parent)

    def _push_leaf(self, node: PrefixNode) -> None:
        heappush(self._eviction_queue, (node.last_used, node.page, node))
        if len(self._eviction_queue) > MAX_STALE_PER_PAGE * self._size + MAX_STALE_PER_PAGE:
            self._eviction_queue = [entry for entry in self._eviction_queue if _evictable(*entry)]
            heapify(self._eviction_queue)


def _evictable(last_used: int, _: int, node: PrefixNode) -> bool:
    """Whether an entry of the eviction queue is up to date."""
    return node.last_used == last_used and not (
        node.parent is None or node.retained or node.children
    )


def _subtree(node: PrefixNode) -> Iterator[PrefixNode]:
    """A node and all below it, parents before children."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())
