"""Full pages by the tokens they hold, so that equal prefixes are computed and kept once.

A node is one full page; its path from the root spells the tokens, exactly, from the sequence's
first. Every salt has a root of its own: what differs in it shares nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, TypeAlias

from engine.kv.pages import PagePool

Key: TypeAlias = tuple[int, ...]  # the tokens of one page

OUTDATED: Final = 4  # entries of the eviction queue for each page in the tree, before it is swept


@dataclass(eq=False, slots=True)
class Node:
    """One full page, its place in the tree, and who keeps it there."""

    parent: "Node | None"
    key: Key
    page: int
    children: dict[Key, "Node"] = field(default_factory=dict)
    readers: int = 0
    pins: int = 0
    used: int = 0

    @property
    def kept(self) -> bool:
        """Whether it may not be evicted."""
        return self.readers > 0 or self.pins > 0

    @property
    def shared(self) -> bool:
        """Whether it stays when one of its readers leaves."""
        return self.readers > 1 or self.pins > 0


@dataclass(eq=False, slots=True)
class _Pin:
    """A prefix kept under a name: its pages' keys, and the nodes found so far."""

    salt: str
    keys: list[Key]
    nodes: list[Node] = field(default_factory=list)


class PrefixTree:
    """The full pages of a pool, found again by content; unread ones stay until pages are short.

    Whoever reads a node reads all nodes above it, so counts never grow towards the leaves and an
    unread node has only unread ones below.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[str, Node] = {}
        self._pins: dict[str, _Pin] = {}
        self._awaited: dict[tuple[Node, Key], list[_Pin]] = {}
        self._unused: list[tuple[int, int, Node]] = []  # heap of unread leaves, some outdated
        self._clock = count(1)
        self._size = 0
        self._kept = 0
        self.shared = 0

    def __len__(self) -> int:
        """Pages in the tree."""
        return self._size

    @property
    def idle(self) -> int:
        """Pages that nobody reads or pins: as good as free."""
        return self._size - self._kept

    def root(self, salt: str) -> Node:
        """Where the prefixes of a salt begin."""
        if salt not in self._roots:
            self._roots[salt] = Node(None, (), -1)
        return self._roots[salt]

    def match(self, salt: str, tokens: Sequence[int], most: int) -> list[Node]:
        """The nodes of the longest known prefix, at most so many pages."""
        node = self._roots.get(salt)
        found: list[Node] = []
        while node is not None and len(found) < most:
            node = node.children.get(self._key(tokens, len(found)))
            if node is not None:
                found.append(node)
        return found

    def add(self, parent: Node, key: Key, page: int) -> Node | None:
        """Put a page of the caller's below a node, unread; None if its content is known."""
        if key in parent.children:
            return None
        node = parent.children[key] = Node(parent, key, page)
        self._size += 1
        self._retire(node)
        for pin in self._awaited.pop((parent, key), []):
            self._pin(pin, node)
        return node

    def hold(self, node: Node) -> None:
        """One more sequence reads this node."""
        self._count(node, readers=1)

    def release(self, nodes: Sequence[Node]) -> None:
        """A sequence reads these nodes, a path from the root, no longer."""
        for node in reversed(nodes):
            self._count(node, readers=-1)

    def evict(self, pages: int) -> None:
        """Free so many pages, the longest unread leaves first, as far as there are any."""
        while pages > 0 and self._unused:
            used, page, node = heappop(self._unused)
            if _evictable(used, page, node):
                self._remove(node)
                self._pool.give_back([page])
                pages -= 1

    def drop(self, nodes: Sequence[Node]) -> list[int]:
        """Take the unread nodes of a path, and all below them, out; the pages, the caller's now."""
        first = next((node for node in nodes if node.parent is not None and not node.readers), None)
        if first is None:
            return []
        below = list(_below(first))
        touched = {
            name: pin for name, pin in self._pins.items() if not set(below).isdisjoint(pin.nodes)
        }
        for name in touched:
            self.unpin(name)
        for node in reversed(below):
            self._remove(node)
        for name, pin in touched.items():
            self._begin(name, pin.salt, pin.keys)
        return [node.page for node in below]

    def clear(self) -> None:
        """Free every page; nobody may read any. Pins wait for their prefixes to come again."""
        for root in list(self._roots.values()):
            for child in list(root.children.values()):
                self._pool.give_back(self.drop([child]))

    def pin(self, name: str, salt: str, tokens: Sequence[int]) -> None:
        """Keep the full pages of a prefix from eviction, those there and those to come."""
        self.unpin(name)
        full = len(tokens) // self._pool.page_tokens
        self._begin(name, salt, [self._key(tokens, place) for place in range(full)])

    def unpin(self, name: str) -> None:
        """Let a pinned prefix go; an unknown name is ignored."""
        pin = self._pins.pop(name, None)
        if pin is None:
            return
        self._awaited = {
            place: left
            for place, pins in self._awaited.items()
            if (left := [other for other in pins if other is not pin])
        }
        for node in reversed(pin.nodes):
            self._count(node, pins=-1)

    def unpin_all(self) -> None:
        """Let every pinned prefix go."""
        for name in list(self._pins):
            self.unpin(name)

    def nodes(self) -> Iterator[Node]:
        """Every node, parents before children."""
        for root in self._roots.values():
            for child in root.children.values():
                yield from _below(child)

    def _key(self, tokens: Sequence[int], place: int) -> Key:
        size = self._pool.page_tokens
        return tuple(tokens[place * size : (place + 1) * size])

    def _begin(self, name: str, salt: str, keys: list[Key]) -> None:
        pin = self._pins[name] = _Pin(salt, keys)
        if not keys:
            return
        parent = self.root(salt)
        node = parent.children.get(keys[0])
        if node is None:
            self._awaited.setdefault((parent, keys[0]), []).append(pin)
        else:
            self._pin(pin, node)

    def _pin(self, pin: _Pin, node: Node | None) -> None:
        """Pin a node and what of the prefix lies below it; wait for the first that is missing."""
        while node is not None:
            self._count(node, pins=1)
            pin.nodes.append(node)
            if len(pin.nodes) == len(pin.keys):
                return
            key = pin.keys[len(pin.nodes)]
            parent, node = node, node.children.get(key)
            if node is None:
                self._awaited.setdefault((parent, key), []).append(pin)

    def _count(self, node: Node, readers: int = 0, pins: int = 0) -> None:
        kept, shared = node.kept, node.shared
        node.readers += readers
        node.pins += pins
        self._kept += node.kept - kept
        self.shared += node.shared - shared
        if not node.kept:
            self._retire(node)

    def _retire(self, node: Node) -> None:
        """Queue an unread leaf for eviction, as the one read last."""
        node.used = next(self._clock)
        if not node.children:
            self._offer(node)

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        del parent.children[node.key]
        node.parent = None
        self._size -= 1
        if not parent.children and not parent.kept and parent.parent is not None:
            self._offer(parent)

    def _offer(self, node: Node) -> None:
        heappush(self._unused, (node.used, node.page, node))
        if len(self._unused) > OUTDATED * self._size + OUTDATED:
            self._unused = [entry for entry in self._unused if _evictable(*entry)]
            heapify(self._unused)


def _evictable(used: int, _: int, node: Node) -> bool:
    """Whether an entry of the eviction queue still holds."""
    return node.used == used and not (node.parent is None or node.kept or node.children)


def _below(node: Node) -> Iterator[Node]:
    """A node and all below it, parents before children."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())
