"""A prefix tree of full pages by their tokens, so that equal prefixes are computed and kept once.

A node is one full page; the path from the root holds the exact tokens from the sequence's start.
Each salt has its own root, so sequences of different salts share nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, TypeAlias

from engine.kv.pages import PagePool

Key: TypeAlias = tuple[int, ...]  # the tokens of one page

MAX_STALE_PER_PAGE: Final = 4  # entries of the eviction queue per page in the tree


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


@dataclass(eq=False, slots=True)
class _Pin:
    """A pinned prefix: the keys of its pages, and the nodes found so far."""

    salt: str
    keys: list[Key]
    nodes: list[PrefixNode] = field(default_factory=list)


class PrefixTree:
    """Finds full pages by content; unread pages stay until their memory is needed.

    A reader of a node reads all nodes above it, so reader counts never increase towards the leaves
    and the subtree of an unread node is unread.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[str, PrefixNode] = {}
        self._pins: dict[str, _Pin] = {}
        self._waiting_pins: dict[tuple[PrefixNode, Key], list[_Pin]] = {}
        # A heap of unread leaves by last use; entries may be stale.
        self._eviction_queue: list[tuple[int, int, PrefixNode]] = []
        self._clock = count(1)
        self._size = 0
        self._retained = 0
        self.shared = 0

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
        affected = {
            name: pin for name, pin in self._pins.items() if not set(subtree).isdisjoint(pin.nodes)
        }
        for name in affected:
            self.unpin(name)
        for node in reversed(subtree):
            self._remove(node)
        for name, pin in affected.items():
            self._start_pin(name, pin.salt, pin.keys)
        return [node.page for node in subtree]

    def clear(self) -> None:
        """Free all pages; none may have a reader. Pins wait for their prefixes to be recomputed."""
        for root in list(self._roots.values()):
            for child in list(root.children.values()):
                self._pool.release(self.remove_subtree([child]))

    def pin(self, name: str, salt: str, tokens: Sequence[int]) -> None:
        """Protect the full pages of a prefix from eviction, present and future ones."""
        self.unpin(name)
        full = len(tokens) // self._pool.page_tokens
        self._start_pin(name, salt, [self._key(tokens, index) for index in range(full)])

    def unpin(self, name: str) -> None:
        """Release a pinned prefix; an unknown name is ignored."""
        pin = self._pins.pop(name, None)
        if pin is None:
            return
        self._waiting_pins = {
            place: remaining
            for place, pins in self._waiting_pins.items()
            if (remaining := [other for other in pins if other is not pin])
        }
        for node in reversed(pin.nodes):
            self._update_counts(node, pins=-1)

    def unpin_all(self) -> None:
        """Release all pinned prefixes."""
        for name in list(self._pins):
            self.unpin(name)

    def nodes(self) -> Iterator[PrefixNode]:
        """Every node, parents before children."""
        for root in self._roots.values():
            for child in root.children.values():
                yield from _subtree(child)

    def _key(self, tokens: Sequence[int], index: int) -> Key:
        size = self._pool.page_tokens
        return tuple(tokens[index * size : (index + 1) * size])

    def _start_pin(self, name: str, salt: str, keys: list[Key]) -> None:
        pin = self._pins[name] = _Pin(salt, keys)
        if not keys:
            return
        parent = self.root(salt)
        node = parent.children.get(keys[0])
        if node is None:
            self._waiting_pins.setdefault((parent, keys[0]), []).append(pin)
        else:
            self._pin(pin, node)

    def _pin(self, pin: _Pin, node: PrefixNode | None) -> None:
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
        retained, shared = node.retained, node.shared
        node.readers += readers
        node.pins += pins
        self._retained += node.retained - retained
        self.shared += node.shared - shared
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
