"""Groups of prompts that share a prefix, to save most tokens (BatchLLM, arXiv 2412.03594).

One level: a prompt belongs to one group or none, and a group computes its prefix once. Grouping is
exact, by a dynamic program over the tree of shared prefixes. With `end(v)` prompts that end at node
v, of depth(v) pages, in a group that shares D pages:

    B(v, D) = end(v)·D + Σ g(c, D) over the children c of v
    g(v, D) = max(B(v, D), B(v, depth(v)) - depth(v))

where the second opens a group at v, to which all prompts below belong that no deeper group takes.
The pages saved are g(root, 0).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from gateway.jobs.prefix_tree import ROOT, PrefixTree, build_prefix_tree
from gateway.jobs.prompts import Ints, JobPrompts

ALONE: Final = -1


class PrefixGroups(Struct, frozen=True):
    """The group of each prompt, `ALONE` for none: (prompts,); each group's prefix: (groups,).

    Prefixes are in tokens, whole pages of them; a group has two or more prompts, each of which is
    longer than the prefix.
    """

    group_of: Ints
    prefix_tokens: Ints

    @property
    def sizes(self) -> Ints:
        """The prompts in each group: (groups,)."""
        return np.bincount(self.group_of[self.group_of != ALONE], minlength=len(self.prefix_tokens))

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens that need not be computed, because another prompt of the group has them."""
        return int(((self.sizes - 1) * self.prefix_tokens).sum())


def group_by_prefix(prompts: JobPrompts, page_tokens: int) -> PrefixGroups:
    """The groups that save most tokens; of equal ones the fewest."""
    tree = build_prefix_tree(prompts, page_tokens)
    groups, prefix_pages = _read_groups(tree, _openings(tree))
    return PrefixGroups(groups[tree.node_of], np.array(prefix_pages, np.int64) * page_tokens)


def _openings(tree: PrefixTree) -> list[npt.NDArray[np.bool_]]:
    """Whether it pays to open a group at a node, by which of its ancestors opened the group above.

    Element v is (ancestors of v,), from the root, which stands for no group; empty for the root.
    """
    ends = np.bincount(tree.node_of, minlength=len(tree.pages))
    depths = _depths(tree)
    gained: dict[int, Ints] = {}  # Σ g(c, D) over the children seen so far
    openings = [np.zeros(0, np.bool_)] * len(tree.pages)
    for node in range(len(tree.pages) - 1, ROOT, -1):
        parent, depth = int(tree.parents[node]), tree.pages[node]
        shared = ends[node] * np.append(depths[parent], depth) + gained.pop(node, 0)  # B(v, D)
        kept, opened = shared[:-1], shared[-1] - depth
        openings[node] = opened > kept
        gained[parent] = gained.get(parent, 0) + np.maximum(kept, opened)  # g(v, D)
    return openings


def _depths(tree: PrefixTree) -> dict[int, Ints]:
    """The depths from the root to each node that has children, itself included, in pages."""
    depths = {ROOT: np.zeros(1, np.int64)}
    for node in np.unique(tree.parents[1:]).tolist():
        if node != ROOT:
            depths[node] = np.append(depths[int(tree.parents[node])], tree.pages[node])
    return depths


def _read_groups(tree: PrefixTree, openings: list[npt.NDArray[np.bool_]]) -> tuple[Ints, list[int]]:
    """The group of each node, and the pages of each group's prefix."""
    groups = np.full(len(tree.pages), ALONE)
    opener = [0] * len(tree.pages)  # which of its ancestors, or itself, the node's group is from
    prefix_pages: list[int] = []
    for node in range(1, len(tree.pages)):
        parent = int(tree.parents[node])
        groups[node], opener[node] = groups[parent], opener[parent]
        if openings[node][opener[node]]:
            groups[node], opener[node] = len(prefix_pages), len(openings[node])
            prefix_pages.append(int(tree.pages[node]))
    return groups, prefix_pages
