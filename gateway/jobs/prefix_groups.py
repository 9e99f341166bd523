"""Groups of prompts that share a prefix, to save most tokens (BatchLLM, arXiv 2412.03594).

One level: a prompt belongs to one group or none, and a group computes its prefix once. Grouping is
exact, by a dynamic program over the tree of shared prefixes. With `end(v)` prompts that end at node
v, of depth(v) pages, in a group that shares D pages:

    B(v, D) = end(v)·D + Σ g(c, D) over the children c of v
    g(v, D) = max(B(v, D), B(v, depth(v)) - depth(v))

where the second opens a group at v, to which all prompts below belong that no deeper group takes.
The pages saved are g(root, 0).

Levels: every shared prefix is a group, inside the group of the longest prefix that it continues.
While a group is open so are those around it, so each shared page is computed once, which nothing
can better. It holds no more memory than one level does: the pages of an outer prefix are part of
each inner one.
"""

from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from gateway.jobs.prefix_tree import ROOT, PrefixTree, build_prefix_tree
from gateway.jobs.prompts import Ints, JobPrompts, PromptPages
from gateway.quantiles import Floats

ALONE: Final = -1


class PrefixGroups(Struct, frozen=True):
    """The group of each prompt, `ALONE` for none: (prompts,); each group's prefix: (groups,).

    Prefixes are in tokens from the start of the prompt, whole pages of them. Two or more prompts
    have a group's prefix, and each is longer. `parent` is the group around a group, which comes
    before it and whose prefix its own continues: (groups,), `ALONE` for none, as all are in
    one level. A prompt's group is its innermost one.
    """

    group_of: Ints
    prefix_tokens: Ints
    parent: Ints

    @property
    def sizes(self) -> Ints:
        """The prompts whose innermost group this is: (groups,)."""
        return np.bincount(self.group_of[self.group_of != ALONE], minlength=len(self.prefix_tokens))

    @property
    def added_tokens(self) -> Ints:
        """What each prefix adds to that of the group around it: (groups,).

        This is what a group takes of KV memory and has to compute while that one is pinned.
        """
        added: Ints = self.prefix_tokens - np.append(self.prefix_tokens, 0)[self.parent]
        return added

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens that need not be computed, because another prompt of the group has them."""
        return int((self.sizes * self.prefix_tokens).sum() - self.added_tokens.sum())

    def shared_tokens(self) -> Ints:
        """The tokens of each prompt that are in its group's prefix: (prompts,)."""
        shared: Ints = np.append(self.prefix_tokens, 0)[self.group_of]
        return shared

    def of_prompts(self, chosen: Ints) -> "PrefixGroups":
        """The same groups with these prompts alone: some may be left without any."""
        return structs.replace(self, group_of=self.group_of[chosen])

    def outermost(self) -> Ints:
        """The outermost group that each group is inside of, itself if it is inside none."""
        found: list[int] = []
        for group, parent in enumerate(self.parent.tolist()):  # a parent comes before
            found.append(group if parent == ALONE else found[parent])
        return np.array(found, np.int64)

    def sum_below(self, amounts: npt.ArrayLike) -> Floats:
        """An amount of each group, (groups,), and of all groups inside it."""
        total: list[float] = np.asarray(amounts, np.float64).tolist()
        for group in range(len(total) - 1, -1, -1):
            if self.parent[group] != ALONE:
                total[self.parent[group]] += total[group]
        return np.array(total, np.float64)


def group_by_prefix(prompts: JobPrompts, page_tokens: int) -> PrefixGroups:
    """The groups of one level that save most tokens; of equal ones the fewest."""
    return one_level(build_prefix_tree(PromptPages.of(prompts, page_tokens)), page_tokens)


def group_in_levels(prompts: JobPrompts, page_tokens: int) -> PrefixGroups:
    """A group of each prefix that two or more prompts share, inside those that it continues."""
    return all_levels(build_prefix_tree(PromptPages.of(prompts, page_tokens)), page_tokens)


def one_level(tree: PrefixTree, page_tokens: int) -> PrefixGroups:
    """As `group_by_prefix`, from the tree of the prompts."""
    groups, prefix_pages = _read_groups(tree, _openings(tree))
    return PrefixGroups(
        groups[tree.node_of],
        np.array(prefix_pages, np.int64) * page_tokens,
        np.full(len(prefix_pages), ALONE),
    )


def all_levels(tree: PrefixTree, page_tokens: int) -> PrefixGroups:
    """As `group_in_levels`, from the tree of the prompts: its nodes without the root."""
    return PrefixGroups(tree.node_of - 1, tree.pages[1:] * page_tokens, tree.parents[1:] - 1)


def prefix_ids(pages: PromptPages, groups: PrefixGroups, salt: str, page_tokens: int) -> list[str]:
    """The id of each group's prefix: a hash of its pages and of the salt, 32 hexadecimal digits.

    The same prefix has the same id in every job, gateway and engine; of two salts, two.
    """
    key = blake2b(salt.encode(), digest_size=16).digest()
    sizes = groups.prefix_tokens // page_tokens
    ids = []
    for prompt, size in zip(_first_prompts(groups), sizes.tolist(), strict=True):
        first = int(pages.starts[prompt])
        content = pages.hashes[first : first + size].astype("<u8", copy=False)
        ids.append(blake2b(content.data, digest_size=16, key=key).hexdigest())
    return ids


def _first_prompts(groups: PrefixGroups) -> list[int]:
    """A prompt that has each group's prefix."""
    first = np.full(len(groups.prefix_tokens), ALONE)
    grouped = np.flatnonzero(groups.group_of != ALONE)
    first[groups.group_of[grouped]] = grouped
    found: list[int] = first.tolist()
    for group in range(len(found) - 1, -1, -1):  # a group may have no prompt but those inside
        if groups.parent[group] != ALONE:
            found[groups.parent[group]] = found[group]
    return found


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
