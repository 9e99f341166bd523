"""The tree of the prefixes that two or more prompts share, in whole pages of KV memory.

All prompts are compared page by page at once: those that agree so far are divided by their next
page, until each is alone or has ended.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from gateway.jobs.prompts import Hashes, Ints, PromptPages, mixed

ROOT: Final = 0


class PrefixTree(Struct, frozen=True):
    """Nodes of two or more prompts with the same first `pages[v]` pages; the root has no page.

    A node comes after its parent, `parents[v]`, which has fewer pages and more prompts: (nodes,)
    each. `node_of` is the deepest node that a prompt belongs to: (prompts,).
    """

    parents: Ints
    pages: Ints
    node_of: Ints


def build_prefix_tree(pages: PromptPages) -> PrefixTree:
    """The prefixes shared by two or more of the prompts.

    A prompt is read as far as it agrees with another one, and one page further.
    """
    shareable = pages.counts
    growing = _GrowingTree(len(pages))
    left = np.flatnonzero(shareable)
    page = 0
    while len(left):
        order, begins = _classes(growing.node_of[left], pages.page(left, page))
        sizes = np.diff(begins, append=len(order))
        left = left[order][np.repeat(sizes > 1, sizes)]
        page += 1
        growing.divide(left, sizes[sizes > 1], page)
        left = left[shareable[left] > page]
    return growing.tree()


class _GrowingTree:
    """A tree under construction; there are at most as many nodes as prompts, and the root."""

    def __init__(self, prompts: int) -> None:
        self.node_of = np.full(prompts, ROOT)
        self._parents, self._pages, self._size = np.zeros((3, prompts + 1), np.int64)
        self._nodes = 1  # used so far

    def divide(self, prompts: Ints, sizes: Ints, pages: int) -> None:
        """Put classes of prompts that agree in this number of pages one level down.

        The prompts of a class, `sizes` of them, are adjacent. A node grows if all its prompts are
        in one class; a class of fewer becomes its child.
        """
        above = self.node_of[prompts[np.cumsum(sizes) - sizes]]
        grows = (sizes == self._size[above]) & (above != ROOT)
        self._pages[above[grows]] = pages
        new = slice(self._nodes, self._nodes + int(np.count_nonzero(~grows)))
        self._nodes = new.stop
        self._parents[new], self._pages[new], self._size[new] = above[~grows], pages, sizes[~grows]
        nodes = above.copy()
        nodes[~grows] = np.arange(new.start, new.stop)
        self.node_of[prompts] = np.repeat(nodes, sizes)

    def tree(self) -> PrefixTree:
        """The tree of all prompts divided so far."""
        return PrefixTree(self._parents[: self._nodes], self._pages[: self._nodes], self.node_of)


def _classes(nodes: Ints, pages: Hashes) -> tuple[Ints, Ints]:
    """An order in which those of equal node and page are adjacent, and where each class begins.

    They are sorted by a hash of both, then compared: a collision costs time alone.
    """
    hashes = _hashes(nodes, pages)
    order = np.argsort(hashes, kind="stable")
    begins = _begins(nodes[order], pages[order])
    if len(begins) > np.count_nonzero(np.diff(hashes[order])) + 1:  # one hash, two classes
        order = np.lexsort((pages, nodes))
        begins = _begins(nodes[order], pages[order])
    return order, begins


def _hashes(nodes: Ints, pages: Hashes) -> Hashes:
    """A hash of each node and page."""
    return mixed(nodes.astype(np.uint64), pages)


def _begins(nodes: Ints, pages: Hashes) -> Ints:
    """Those that differ from the one before; the first does."""
    differs = np.append(True, (nodes[1:] != nodes[:-1]) | (pages[1:] != pages[:-1]))
    return np.flatnonzero(differs)
