"""The report on what sharing saves, against a count of the pages computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.planning.plan import QueuedLines, plan_lines
from gateway.jobs.planning.sharing_report import GroupsOfSize, SharingReport, report_sharing
from gateway.jobs.prefix_groups import ALONE, group_by_prefix, group_in_levels
from gateway.jobs.prompts import JobPrompts, PromptPages

Prompts = list[list[int]]
drawn_prompts = st.lists(st.lists(st.sampled_from([1, 2]), max_size=6), max_size=9)


def report(prompts: Prompts, new_lines: int | None = None, page_tokens: int = 1) -> SharingReport:
    first = 0 if new_lines is None else len(prompts) - new_lines
    queued = JobPrompts.of(prompts[:first])
    return plan_lines(
        JobPrompts.of(prompts[first:]),
        np.ones(len(prompts)),
        page_tokens=page_tokens,
        salt="tenant",
        queued=QueuedLines(PromptPages.of(queued, page_tokens), queued.lengths),
    ).report


@given(drawn_prompts, st.booleans(), st.integers(0, 9))
def test_jobs_together_compute_what_the_groups_do(prompts: Prompts, levels: bool, cut: int) -> None:
    job = JobPrompts.of(prompts)
    groups = (group_in_levels if levels else group_by_prefix)(job, 1)
    whole = report_sharing(groups, job.lengths, len(job), None)
    assert whole.computed_tokens == whole.prompt_tokens - groups.saved_tokens
    assert whole.prompt_tokens == sum(map(len, prompts))
    new = min(cut, len(prompts))
    part = report_sharing(groups, job.lengths, new, None)
    first = len(prompts) - new
    below = groups.sum_below(groups.sizes)
    computed = 0.0
    for line in range(first, len(prompts)):
        group, shared = int(groups.group_of[line]), 0
        while group != ALONE:
            computed += groups.added_tokens[group] / below[group]
            shared += int(groups.added_tokens[group])
            group = int(groups.parent[group])
        computed += len(prompts[line]) - shared
    assert part.computed_tokens == pytest.approx(computed, abs=0.5 + 1e-9)
    assert part.prompt_tokens == sum(map(len, prompts[first:]))
    assert sum(each.lines for each in part.groups_by_size) == np.count_nonzero(
        groups.group_of[first:] != ALONE
    )


def test_report_counts_groups_by_their_size() -> None:
    document, other = [1] * 20, [2] * 20
    prompts = [*([*document, n] for n in range(5)), *([*other, n] for n in range(2)), [3]]
    found = report(prompts)
    assert found.groups_by_size == [GroupsOfSize(2, 3, 1, 2), GroupsOfSize(4, 7, 1, 5)]
    assert (found.prompt_tokens, found.computed_tokens) == (148, 148 - 4 * 20 - 20)
    assert found.saved_share == pytest.approx(100 / 148)
    assert found.warning is None


def test_new_job_that_joins_queued_groups_saves_even_its_first_line() -> None:
    document = [1] * 30
    queued, new = [[*document, n] for n in range(2)], [[*document, n] for n in range(7, 8)]
    assert report([*queued, *new], new_lines=1).computed_tokens == 31 - 30 + 10
    assert report(new).computed_tokens == 31


def test_warning_names_the_tokens_and_the_saving() -> None:
    random = np.random.default_rng(3)
    document = random.integers(0, 1_000, 95).tolist()
    prompts = [[n, *document, n, n, n, n] for n in range(10)]
    assert report(prompts, page_tokens=16).warning == (
        "10 of 10 lines differ from token 1 on and agree again from about token 2 on. With the "
        "differing part at the end of the prompt, sharing would save 72% of the prompt tokens "
        "instead of 0%."
    )


def test_job_without_lines_has_an_empty_report() -> None:
    assert report([]) == SharingReport(0, 0, 0, [])
    assert report([]).saved_share == 0
