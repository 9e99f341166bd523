"""The plan of batch jobs: groups of their lines, ids of the groups' prefixes, and the order."""

from typing import Final

from msgspec import Struct

from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.planning.movable_text import find_movable_text
from gateway.jobs.planning.sharing_report import SharingReport, report_sharing
from gateway.jobs.prefix_groups import (
    PrefixGroups,
    all_levels,
    group_by_prefix,
    one_level,
    prefix_ids,
)
from gateway.jobs.prefix_tree import build_prefix_tree
from gateway.jobs.prompts import Ints, JobPrompts
from gateway.quantiles import Floats

LEVELS_PAY: Final = 0.01  # of all prompt tokens, that levels have to save beyond one level


class JobPlan(Struct, frozen=True):
    """Groups of lines, the id of each group's prefix, each line's rank, and what is saved."""

    groups: PrefixGroups
    ids: list[str]
    ranks: Ints
    report: SharingReport


def plan_lines(
    prompts: JobPrompts,
    expected: Floats,
    *,
    page_tokens: int,
    salt: str,
    new_lines: int,
    levels: bool = False,
) -> JobPlan:
    """Plan all lines together that have not started, of all jobs of one tenant and model.

    `expected`: expected tokens of each answer, (lines,). `salt`: what divides those who may share,
    the tenant. The report is on the last `new_lines`, those of the new job. With `levels`, groups
    may be inside others, whose prefixes must then stay pinned as long as any of theirs.
    """
    groups = (choose_groups if levels else group_by_prefix)(prompts, page_tokens)
    return JobPlan(
        groups,
        prefix_ids(prompts, groups, salt),
        rank_lines(groups, prompts.lengths, expected),
        report_sharing(
            groups,
            prompts.lengths,
            new_lines,
            find_movable_text(prompts.last(new_lines), page_tokens),
        ),
    )


def choose_groups(prompts: JobPrompts, page_tokens: int) -> PrefixGroups:
    """Groups in levels where these save LEVELS_PAY more of the prompts, else in one level."""
    tree = build_prefix_tree(prompts, page_tokens)
    flat, nested = one_level(tree, page_tokens), all_levels(tree, page_tokens)
    pays = nested.saved_tokens - flat.saved_tokens > LEVELS_PAY * prompts.lengths.sum()
    return nested if pays else flat
