"""Grouping by prefix against a comparison of all ways to group."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs import prefix_tree
from gateway.jobs.prefix_groups import (
    ALONE,
    PrefixGroups,
    group_by_prefix,
    group_in_levels,
    prefix_ids,
)
from gateway.jobs.prefix_tree import build_prefix_tree
from gateway.jobs.prompts import JobPrompts, PromptPages

Prompts = list[list[int]]
pieces = st.sampled_from([[1, 1], [1, 2], [2, 1], [1], [2, 2, 2]])
drawn_prompts = st.lists(
    st.lists(pieces, max_size=5).map(lambda parts: [t for part in parts for t in part]), max_size=6
)


def pages_of_job(prompts: Prompts, page_tokens: int) -> PromptPages:
    return PromptPages.of(JobPrompts.of(prompts), page_tokens)


def grouped(prompts: Prompts, page_tokens: int = 1) -> PrefixGroups:
    return group_by_prefix(JobPrompts.of(prompts), page_tokens)


def shared_tokens(members: Prompts, page_tokens: int) -> int:
    """Tokens in the full pages that all of these share; each keeps one token to compute."""
    together = 0
    while len({tuple(member[: together + 1]) for member in members}) == 1 and all(
        len(member) > together + 1 for member in members
    ):
        together += 1
    return together // page_tokens * page_tokens


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every way to divide items into sets."""
    if not items:
        yield []
        return
    first, *rest = items
    for parts in partitions(rest):
        yield [[first], *parts]
        for index, part in enumerate(parts):
            yield [*parts[:index], [first, *part], *parts[index + 1 :]]


def most_saved(prompts: Prompts, page_tokens: int) -> int:
    return max(
        sum(
            (len(part) - 1) * shared_tokens([prompts[index] for index in part], page_tokens)
            for part in parts
            if len(part) > 1
        )
        for parts in partitions(list(range(len(prompts))))
    )


def check(prompts: Prompts, groups: PrefixGroups, page_tokens: int) -> None:
    """Each group has two or more members, which share its prefix in whole pages."""
    assert len(groups.group_of) == len(prompts)
    for group, tokens in enumerate(groups.prefix_tokens.tolist()):
        members = [prompts[index] for index in np.flatnonzero(groups.group_of == group)]
        assert len(members) > 1
        assert 0 < tokens <= shared_tokens(members, page_tokens)
        assert tokens % page_tokens == 0


@given(drawn_prompts, st.integers(1, 3))
def test_groups_save_as_much_as_any_grouping(prompts: Prompts, page_tokens: int) -> None:
    groups = grouped(prompts, page_tokens)
    check(prompts, groups, page_tokens)
    assert groups.saved_tokens == most_saved(prompts, page_tokens)


@given(drawn_prompts, st.integers(1, 3))
def test_colliding_hashes_change_no_group(prompts: Prompts, page_tokens: int) -> None:
    honest = grouped(prompts, page_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "_hashes", lambda nodes, _: np.zeros(len(nodes), np.uint64))
        colliding = grouped(prompts, page_tokens)
    check(prompts, colliding, page_tokens)
    assert colliding.saved_tokens == honest.saved_tokens


@given(drawn_prompts, st.integers(1, 3))
def test_tree_has_every_shared_prefix_once(prompts: Prompts, page_tokens: int) -> None:
    tree = build_prefix_tree(pages_of_job(prompts, page_tokens))
    pages = [
        tuple(
            tuple(prompt[at : at + page_tokens])
            for at in range(0, len(prompt) - page_tokens, page_tokens)
        )
        for prompt in prompts
    ]
    prefixes = {each[:size] for each in pages for size in range(1, len(each) + 1)}
    members = {
        prefix: frozenset(i for i, each in enumerate(pages) if each[: len(prefix)] == prefix)
        for prefix in prefixes
    }
    expected = {found for found in members.values() if len(found) > 1}
    below: dict[int, set[int]] = {node: set() for node in range(len(tree.pages))}
    for prompt, deepest in enumerate(tree.node_of.tolist()):
        node = deepest
        while node:
            below[node].add(prompt)
            node = int(tree.parents[node])
    del below[0]
    assert sorted(map(sorted, below.values())) == sorted(map(sorted, expected))
    assert (tree.parents[1:] < np.arange(1, len(tree.pages))).all()
    for node, found in below.items():
        depths = [len(prefix) for prefix, each in members.items() if each == found]
        assert tree.pages[node] == max(depths)


def test_prompt_that_is_the_prefix_of_another_joins_its_group() -> None:
    groups = grouped([[1, 2, 3], [1, 2, 3, 4, 5], [9]])
    assert groups.group_of.tolist() == [0, 0, ALONE]
    assert groups.prefix_tokens.tolist() == [2]  # the last token of the first is computed


def test_duplicates_share_all_but_the_page_of_their_last_token() -> None:
    groups = grouped([[7] * 32] * 3, page_tokens=16)
    assert (groups.prefix_tokens.tolist(), groups.sizes.tolist()) == ([16], [3])


@pytest.mark.parametrize("prompts", [[], [[5]], [[5], [5], [5]], [[]], [[], [1], [1, 2]]])
def test_prompts_of_one_token_or_none_share_nothing(prompts: Prompts) -> None:
    groups = grouped(prompts)
    assert groups.group_of.tolist() == [ALONE] * len(prompts)
    assert (len(groups.prefix_tokens), groups.saved_tokens) == (0, 0)


def test_large_documents_are_groups_of_their_own_below_a_short_common_prefix() -> None:
    system, documents = [1] * 4, [[2] * 40, [3] * 40]
    prompts = [[*system, *document, n] for document in documents for n in range(10, 15)]
    groups = grouped(prompts, page_tokens=4)
    assert groups.prefix_tokens.tolist() == [44, 44]
    assert groups.group_of.tolist() == [groups.group_of[0]] * 5 + [groups.group_of[5]] * 5


def test_long_common_prefix_is_one_group_whatever_follows() -> None:
    prompts = [[*([1] * 40), *([n // 2] * 4), n] for n in range(10, 20)]
    assert grouped(prompts, page_tokens=4).prefix_tokens.tolist() == [40]


@pytest.mark.parametrize(("degree", "saved"), [(2, 0.455), (4, 0.682), (8, 0.795), (16, 0.852)])
def test_shuffled_job_saves_the_published_optimum(degree: int, saved: float) -> None:
    random = np.random.default_rng(degree)
    shared = random.integers(0, 50_000, (32 // degree, 2_000))
    prompts = [[*row, *random.integers(0, 50_000, 200)] for row in shared for _ in range(degree)]
    order = random.permutation(len(prompts))
    groups = grouped([prompts[index] for index in order], page_tokens=16)
    assert groups.saved_tokens / (32 * 2_200) == pytest.approx(saved, abs=5e-4)


def pages_of(prompt: list[int], page_tokens: int) -> list[tuple[int, ...]]:
    """The prefixes of whole pages that leave a token to compute."""
    return [tuple(prompt[:size]) for size in range(page_tokens, len(prompt), page_tokens)]


def computed_while_open(prompts: Prompts, groups: PrefixGroups) -> int:
    """Tokens computed if each group adds to the one around it once, and each prompt to its own."""
    prefixes: list[int] = groups.prefix_tokens.tolist()
    once = sum(
        prefix - (prefixes[outer] if outer != ALONE else 0)
        for prefix, outer in zip(prefixes, groups.parent.tolist(), strict=True)
    )
    return once + sum(
        len(prompt) - (prefixes[group] if group != ALONE else 0)
        for prompt, group in zip(prompts, groups.group_of.tolist(), strict=True)
    )


@given(drawn_prompts, st.integers(1, 3))
def test_levels_compute_each_shared_page_once(prompts: Prompts, page_tokens: int) -> None:
    groups = group_in_levels(JobPrompts.of(prompts), page_tokens)
    pages = [prefix for prompt in prompts for prefix in pages_of(prompt, page_tokens)]
    optimum = (len(pages) - len(set(pages))) * page_tokens
    assert groups.saved_tokens == optimum
    assert computed_while_open(prompts, groups) == sum(map(len, prompts)) - optimum
    assert groups.saved_tokens >= grouped(prompts, page_tokens).saved_tokens


@given(drawn_prompts, st.integers(1, 3))
def test_group_continues_the_prefix_of_the_group_around_it(
    prompts: Prompts, page_tokens: int
) -> None:
    groups = group_in_levels(JobPrompts.of(prompts), page_tokens)
    below: list[list[int]] = [[] for _ in groups.parent]
    for prompt, innermost in enumerate(groups.group_of.tolist()):
        group = innermost
        while group != ALONE:
            below[group].append(prompt)
            group = groups.parent[group]
    for group, tokens in enumerate(groups.prefix_tokens.tolist()):
        members = [prompts[index] for index in below[group]]
        assert len(members) > 1
        assert 0 < tokens <= shared_tokens(members, page_tokens)
        outer = groups.parent[group]
        assert outer == ALONE or (outer < group and groups.prefix_tokens[outer] < tokens)


def test_documents_below_a_system_prompt_are_groups_inside_its_group() -> None:
    system, documents = [1] * 4, [[2] * 40, [3] * 40]
    prompts = [[*system, *document, n] for document in documents for n in range(10, 15)]
    groups = group_in_levels(JobPrompts.of([*prompts, [*system, 9]]), page_tokens=4)
    assert (groups.prefix_tokens.tolist(), groups.parent.tolist()) == ([4, 44, 44], [ALONE, 0, 0])
    assert groups.group_of.tolist() == [1] * 5 + [2] * 5 + [0]
    assert groups.added_tokens.tolist() == [4, 40, 40]


@given(drawn_prompts, st.integers(1, 3))
def test_id_of_a_prefix_is_of_its_tokens_alone(prompts: Prompts, page_tokens: int) -> None:
    found: dict[str, tuple[int, ...]] = {}
    for order in (prompts, [[5, 5, 5, 5], *prompts[::-1]]):
        job = JobPrompts.of(order)
        for group in (group_by_prefix, group_in_levels):
            groups = group(job, page_tokens)
            pages = PromptPages.of(job, page_tokens)
            ids = prefix_ids(pages, groups, "tenant", page_tokens)
            assert len(set(ids)) == len(ids)
            for prompt, index in enumerate(groups.group_of.tolist()):
                if index != ALONE:
                    prefix = tuple(order[prompt][: groups.prefix_tokens[index]])
                    assert found.setdefault(ids[index], prefix) == prefix


def test_tenants_have_ids_of_their_own() -> None:
    prompts = [[1, 2, 3], [1, 2, 4]]
    groups, pages = grouped(prompts), pages_of_job(prompts, 1)
    assert prefix_ids(pages, groups, "acme", 1) != prefix_ids(pages, groups, "globex", 1)
