"""The order of groups and lines."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.prefix_groups import ALONE, PrefixGroups, group_by_prefix, group_in_levels
from gateway.jobs.prompts import JobPrompts

Prompts = list[list[int]]
NONE: frozenset[int] = frozenset()
lines = st.lists(
    st.tuples(st.lists(st.sampled_from([1, 2]), max_size=6), st.integers(1, 4)), max_size=9
)


def order(
    groups: PrefixGroups, prompts: Prompts, expected: list[int], opened: frozenset[int] = NONE
) -> list[int]:
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    pinned = np.isin(np.arange(len(groups.parent)), list(opened))
    ranks = rank_lines(groups, lengths, np.array(expected, np.float64), pinned)
    found: list[int] = np.argsort(ranks).tolist()
    return found


def members(groups: PrefixGroups, line: int) -> list[int]:
    """The groups of a line, outermost first."""
    found, group = [], int(groups.group_of[line])
    while group != ALONE:
        found.append(group)
        group = int(groups.parent[group])
    return found[::-1]


def slow_order(
    groups: PrefixGroups, prompts: Prompts, expected: list[int], opened: frozenset[int]
) -> list[int]:
    """The same by recursion over sets of lines."""
    paths = [members(groups, line) for line in range(len(prompts))]
    opened = frozenset(
        group for path in paths for at, group in enumerate(path) if opened & {*path[at:]}
    )
    prefixes: list[int] = [0, *groups.prefix_tokens.tolist()]

    def ratio(below: list[int], depth: int) -> float:
        used = {group for line in below for group in paths[line][depth:]} - opened
        added = sum(prefixes[group + 1] - prefixes[int(groups.parent[group]) + 1] for group in used)
        own = sum(len(prompts[line]) - prefixes[int(groups.group_of[line]) + 1] for line in below)
        return sum(expected[line] for line in below) / max(added + own, 1)

    def place(below: list[int], depth: int) -> list[int]:
        units: dict[tuple[bool, int], list[int]] = {}
        direct = []
        for line in below:
            if len(paths[line]) > depth:
                units.setdefault((False, paths[line][depth]), []).append(line)
            elif depth == 0:
                units[True, line] = [line]
            else:
                direct.append(line)
        found = sorted(direct, key=lambda line: (-expected[line], line))
        ranked = sorted(
            units.items(),
            key=lambda unit: (
                unit[0][1] not in opened or unit[0][0],
                -ratio(unit[1], depth),
                unit[0],
            ),
        )
        for (alone, _), unit in ranked:
            found += unit if alone else place(unit, depth + 1)
        return found

    return place(list(range(len(prompts))), 0)


@given(lines, st.booleans(), st.frozensets(st.integers(0, 3)))
def test_order_is_that_of_the_ratios(
    drawn: list[tuple[list[int], int]], levels: bool, chosen: frozenset[int]
) -> None:
    prompts, expected = [prompt for prompt, _ in drawn], [length for _, length in drawn]
    groups = (group_in_levels if levels else group_by_prefix)(JobPrompts.of(prompts), 1)
    opened = frozenset(group for group in chosen if group < len(groups.parent))
    assert order(groups, prompts, expected, opened) == slow_order(groups, prompts, expected, opened)


def test_group_that_decodes_more_for_each_prompt_token_goes_first() -> None:
    prompts = [[1, 1, 7], [1, 1, 8], [2, 2, 7], [2, 2, 8], [9] * 4]
    groups = group_by_prefix(JobPrompts.of(prompts), 1)
    # (3 + 5) / 4, (40 + 50) / 4, and 16 / 4 for the line without a group; longest first inside
    assert order(groups, prompts, [3, 5, 40, 50, 16]) == [3, 2, 4, 1, 0]


def test_documents_of_one_system_prompt_stay_together() -> None:
    system, documents = [1] * 4, [[2] * 8, [3] * 8]
    prompts = [[*system, *document, n] for document in documents for n in (5, 6)]
    prompts += [[9] * 4, [*system, 7]]
    groups = group_in_levels(JobPrompts.of(prompts), 4)
    assert order(groups, prompts, [1, 2, 300, 400, 10, 5]) == [5, 3, 2, 1, 0, 4]


def test_no_line_has_no_order() -> None:
    groups = group_by_prefix(JobPrompts.of([]), 4)
    assert order(groups, [], []) == []


def test_lines_left_of_pinned_groups_go_first_when_ranked_again() -> None:
    prompts = [[1, 1, 7], [1, 1, 8], [1, 1, 9], [2, 2, 7], [2, 2, 8], [9] * 4]
    groups = group_by_prefix(JobPrompts.of(prompts), 1).of_prompts(np.arange(1, 6))
    assert order(groups, prompts[1:], [3, 5, 40, 50, 16]) == [3, 2, 4, 1, 0]
    pinned = frozenset({int(groups.group_of[0])})
    assert order(groups, prompts[1:], [3, 5, 40, 50, 16], pinned) == [1, 0, 3, 2, 4]


def test_group_whose_lines_have_all_started_leaves_no_gap() -> None:
    prompts = [[1, 1, 7], [1, 1, 8], [2, 2, 7], [2, 2, 8]]
    groups = group_by_prefix(JobPrompts.of(prompts), 1).of_prompts(np.array([2, 3]))
    assert order(groups, prompts[2:], [5, 6]) == [1, 0]
