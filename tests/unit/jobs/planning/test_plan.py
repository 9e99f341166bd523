"""The plan of several jobs, and the choice between one level and several."""

import numpy as np
import pytest

from gateway.jobs.planning.plan import NONE_QUEUED, JobPlan, QueuedLines, plan_lines
from gateway.jobs.prefix_groups import ALONE, group_by_prefix, group_in_levels
from gateway.jobs.prompts import JobPrompts, PromptPages

PAGE = 4
SYSTEM, DOCUMENTS = [1] * 40, [[2] * 40, [3] * 40]


def plan(
    prompts: list[list[int]],
    *,
    queued: QueuedLines = NONE_QUEUED,
    salt: str = "acme",
) -> JobPlan:
    job = JobPrompts.of(prompts)
    expected = np.arange(1.0, len(queued.prompt_tokens) + len(job) + 1)
    return plan_lines(job, expected, page_tokens=PAGE, salt=salt, queued=queued)


def waiting(prompts: list[list[int]], *opened: str) -> QueuedLines:
    job = JobPrompts.of(prompts)
    return QueuedLines(PromptPages.of(job, PAGE), job.lengths, frozenset(opened))


def lines(document: int, *ends: int) -> list[list[int]]:
    return [[*SYSTEM, *DOCUMENTS[document], end] for end in ends]


def test_levels_are_chosen_where_they_save_a_hundredth_more() -> None:
    nested = plan([*lines(0, 5, 6, 7), *lines(1, 5, 6, 7)])
    assert nested.groups.parent.tolist() == [ALONE, 0, 0]
    flat = plan([*lines(0, 5, 6, 7), *([4] * 90 + [n] for n in (1, 2))])
    assert flat.groups.parent.tolist() == [ALONE, ALONE]


def test_new_job_joins_the_groups_of_a_queued_one_under_the_same_ids() -> None:
    queued, new = lines(0, 5, 6), lines(0, 7, 8)
    alone, together = plan(queued), plan(new, queued=waiting(queued))
    assert together.ids == alone.ids
    assert together.groups.group_of.tolist() == [0] * 4
    assert plan(queued, salt="globex").ids != alone.ids
    assert together.report.lines == 2
    assert together.report.computed_tokens == 2 + 80 // 2  # of the prefix, the new lines' half


def test_new_lines_share_the_pages_of_a_queued_line_that_shared_none() -> None:
    (queued,) = lines(0, 5)
    found = plan([*lines(1, 5, 6), [*SYSTEM, *DOCUMENTS[0], 9]], queued=waiting([queued]))
    (first, *new, last) = found.groups.group_of.tolist()
    assert first == last
    assert first not in new
    assert found.groups.prefix_tokens.tolist() == [40, 80, 80]


def test_group_whose_prefix_is_pinned_stays_first() -> None:
    queued = [*lines(0, 5, 6), *lines(1, 5, 6)]
    first = plan([[9] * 30], queued=waiting(queued))
    last = first.ids[int(first.groups.group_of[0])]
    assert first.ranks[0] > first.ranks[2]
    opened = plan([[9] * 30], queued=waiting(queued, last))
    assert sorted(opened.ranks[:2].tolist()) == [0, 1]


def test_ranks_are_those_of_all_jobs_together() -> None:
    found = plan([*lines(0, 5, 6), [9] * 30, *lines(0, 7)])
    assert sorted(found.ranks.tolist()) == [0, 1, 2, 3]
    group = found.ranks[[0, 1, 3]].tolist()
    assert max(group) - min(group) == 2


@pytest.mark.parametrize("skipped", [[0, 0], [3, 1]])
def test_prompts_are_grouped_without_their_skipped_tokens(skipped: list[int]) -> None:
    tails = [[5] * 9, [5] * 8 + [6]]
    whole = [[8] * skip + tail for skip, tail in zip(skipped, tails, strict=True)]
    job = JobPrompts.of(whole)
    cut = JobPrompts(job.tokens, job.starts, np.array(skipped))
    assert cut.lengths.tolist() == [9, 9]
    for group in (group_by_prefix, group_in_levels):
        assert group(cut, PAGE).prefix_tokens.tolist() == [8]
