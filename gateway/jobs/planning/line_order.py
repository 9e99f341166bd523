"""The order in which the lines of batch jobs start.

Decode-heavy groups first (BatchLLM, arXiv 2412.03594, "global request scheduling"): by

    R_g = Σ E[generated tokens] / (prefix + Σ own prompt tokens)

so that the decoding of early groups fills the steps that compute later groups' prompts. A line
without a group counts as a group of one. Groups inside a group stay together and follow its own
lines, by the same ratio. Lines of a group start longest first, so that none begins when the others
have ended and keeps the prefix pinned alone.
"""

import numpy as np

from gateway.jobs.prefix_groups import ALONE, PrefixGroups
from gateway.jobs.prompts import Ints
from gateway.quantiles import Bools, Floats


def rank_lines(
    groups: PrefixGroups, prompt_tokens: Ints, expected: Floats, opened: Bools | None = None
) -> Ints:
    """The rank of each line, from 0: (lines,), from its whole prompt and its expected answer.

    `opened`: whether a group's prefix is computed and pinned: (groups,). These groups and those
    around them go first, and need not be computed. Of equal lines the first goes first.
    """
    lines, count = len(prompt_tokens), len(groups.prefix_tokens)
    opened = groups.sum_below(np.zeros(count) if opened is None else opened) > 0
    added = np.where(opened, 0, groups.added_tokens)
    own = (prompt_tokens - groups.shared_tokens()).astype(np.float64)
    grouped = groups.group_of != ALONE
    members = groups.group_of[grouped]
    sizes = groups.sum_below(groups.sizes).astype(np.int64)
    decoded = groups.sum_below(np.bincount(members, expected[grouped], count))
    computed = groups.sum_below(np.bincount(members, own[grouped], count) + added)

    alone = np.flatnonzero(~grouped)
    ratios = np.concatenate(
        (decoded / np.maximum(computed, 1), expected[alone] / np.maximum(own[alone], 1))
    )
    begins = _begins(groups, ratios, np.concatenate((sizes, np.ones(len(alone), np.int64))), opened)

    first = np.empty(lines, np.int64)  # the rank at which the line's unit begins
    first[grouped], first[alone] = begins[members], begins[count:]
    order = np.lexsort((np.arange(lines), -expected, first))
    ranks = np.empty(lines, np.int64)
    ranks[order] = np.arange(lines)
    return ranks


def _begins(groups: PrefixGroups, ratios: Floats, sizes: Ints, opened: Bools) -> Ints:
    """The first rank of each unit: the groups, then the lines without one.

    Units with the same parent follow one another by falling ratio, opened groups before others.
    """
    parents = np.concatenate((groups.parent, np.full(len(sizes) - len(groups.parent), ALONE)))
    closed = np.concatenate((~opened, np.ones(len(sizes) - len(opened), np.bool_)))
    order = np.lexsort((-ratios, closed, parents))
    ahead = np.cumsum(sizes[order]) - sizes[order]  # in units of all parents
    first_sibling = np.searchsorted(parents[order], parents[order])
    begins = np.empty(len(sizes), np.int64)
    begins[order] = ahead - ahead[first_sibling]
    own_lines = groups.sizes
    for group in np.flatnonzero(groups.parent != ALONE).tolist():  # its parent comes before it
        parent = groups.parent[group]
        begins[group] += begins[parent] + own_lines[parent]
    return begins
