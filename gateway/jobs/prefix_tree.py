"""The tree of the prefixes that two or more prompts share, in whole pages of KV memory.

An engine shares full pages only and computes at least the last token of each prompt, so of a prompt
of n tokens the first (n - 1) // page_tokens pages can be shared. All prompts are compared page by
page at once: those that agree so far are divided by their next page, until each is alone or has
ended.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from gateway.jobs.prompts import Ints, JobPrompts, Tokens

Hashes = npt.NDArray[np.uint64]

ROOT: Final = 0
MIXER: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without pattern


class PrefixTree(Struct, frozen=True):
    """Nodes of two or more prompts with the same first `pages[v]` pages; the root has no page.

    A node comes after its parent, `parents[v]`, which has fewer pages and more prompts: (nodes,)
    each. `node_of` is the deepest node that a prompt belongs to: (prompts,).
    """

    parents: Ints
    pages: Ints
    node_of: Ints


def build_prefix_tree(prompts: JobPrompts, page_tokens: int) -> PrefixTree:
    """The prefixes shared by two or more of the prompts.

    A prompt is read as far as it agrees with another one, and one page further.
    """
    shareable = np.maximum(prompts.lengths - 1, 0) // page_tokens
    growing = _GrowingTree(len(prompts))
    left = np.flatnonzero(shareable)
    page = 0
    while len(left):
        contents = prompts.pages(left, page, page_tokens)
        order, begins = _classes(growing.node_of[left], contents)
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


def _classes(nodes: Ints, contents: Tokens) -> tuple[Ints, Ints]:
    """An order in which rows of equal node and content are adjacent, and where each class begins.

    Rows are sorted by a hash, and compared in full: a collision costs time alone.
    """
    hashes = _hashes(nodes, contents)
    order = np.argsort(hashes, kind="stable")
    begins = _begins(nodes[order], contents[order])
    if len(begins) > np.count_nonzero(np.diff(hashes[order])) + 1:  # one hash, two contents
        order = np.lexsort((*contents.T, nodes))
        begins = _begins(nodes[order], contents[order])
    return order, begins


def _hashes(nodes: Ints, contents: Tokens) -> Hashes:
    """A hash of each row; equal rows have equal ones."""
    found = nodes.astype(np.uint64)
    for column in contents.T:
        found = (found ^ column) * MIXER
        found ^= found >> np.uint64(29)
    return found


def _begins(nodes: Ints, contents: Tokens) -> Ints:
    """The rows that differ from the one before; the first does."""
    differs = np.append(True, nodes[1:] != nodes[:-1])
    differs[1:] |= (contents[1:] != contents[:-1]).any(axis=1)
    return np.flatnonzero(differs)
