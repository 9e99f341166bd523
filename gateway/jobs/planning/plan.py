"""The plan of batch jobs: groups of their lines, ids of the groups' prefixes, and the order."""

from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.planning.movable_text import find_movable_text
from gateway.jobs.planning.sharing_report import SharingReport, report_sharing
from gateway.jobs.prefix_groups import (
    PrefixGroups,
    all_levels,
    one_level,
    prefix_ids,
)
from gateway.jobs.prefix_tree import build_prefix_tree
from gateway.jobs.prompts import NO_PAGES, Ints, JobPrompts, PromptPages
from gateway.quantiles import Floats

LEVELS_PAY: Final = 0.01  # of all prompt tokens, that levels have to save beyond one level


class JobPlan(Struct, frozen=True):
    """Groups of lines, the id of each group's prefix, each line's rank, and what is saved."""

    groups: PrefixGroups
    ids: list[str]
    ranks: Ints
    report: SharingReport


class QueuedLines(Struct, frozen=True):
    """Lines of earlier jobs that have not started: pages, and tokens of their prompts, (queued,).

    `opened` are the ids of the prefixes that are computed and pinned for lines that run.
    """

    pages: PromptPages
    prompt_tokens: Ints
    opened: AbstractSet[str] = frozenset()


NONE_QUEUED: Final = QueuedLines(NO_PAGES, np.zeros(0, np.int64))


def plan_lines(
    prompts: JobPrompts,
    expected: Floats,
    *,
    page_tokens: int,
    salt: str,
    queued: QueuedLines = NONE_QUEUED,
) -> JobPlan:
    """Plan a new job's lines with those that have not started of its tenant's and model's jobs.

    The plan has first the queued lines, then the new ones, on which the report is. `expected`:
    expected tokens of each answer, (queued + new,). `salt`: what divides those who may share, the
    tenant. Groups are in levels where these save LEVELS_PAY more of the prompts.
    """
    pages = queued.pages.followed_by(PromptPages.of(prompts, page_tokens))
    lengths = np.concatenate((queued.prompt_tokens, prompts.lengths))
    tree = build_prefix_tree(pages)
    groups = _better(one_level(tree, page_tokens), all_levels(tree, page_tokens), lengths)
    ids = prefix_ids(pages, groups, salt, page_tokens)
    opened = np.array([prefix in queued.opened for prefix in ids], np.bool_)
    return JobPlan(
        groups,
        ids,
        rank_lines(groups, lengths, expected, opened),
        report_sharing(groups, lengths, len(prompts), find_movable_text(prompts, page_tokens)),
    )


def _better(flat: PrefixGroups, nested: PrefixGroups, prompt_tokens: Ints) -> PrefixGroups:
    pays = nested.saved_tokens - flat.saved_tokens > LEVELS_PAY * prompt_tokens.sum()
    return nested if pays else flat
