"""The jobs of B1 and B2, and what is reported of their runs."""

from collections import Counter
from math import prod

import pytest

from benchmarks.b1.job import NESTED, OWN, PAGE_TOKENS, SHARED, job, nested_job
from benchmarks.b1.live_job import LiveRun, planned_lines
from benchmarks.b1.live_run import LiveCell, degree_job, rows_of, targets
from benchmarks.b2.contestants import EngineWork, JobRun, engine_work
from benchmarks.b2.job import DEGREES, KINDS, LONG, SHORT, JobKind, mixed_job
from benchmarks.b2.job import OWN as OWN_OF_MIXED
from benchmarks.b2.run import rotated
from benchmarks.b2.run import rows_of as rows_of_makespan
from benchmarks.b2.run import targets as targets_of_makespan
from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured
from gateway.jobs.prefix_groups import group_in_levels
from gateway.jobs.prompts import JobPrompts


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_degree_has_as_many_lines_and_every_group_one_family_of_answers(
    kind: JobKind,
) -> None:
    lines = mixed_job(kind, 3)
    groups = Counter(line.id.rpartition("-")[0] for line in lines)
    count = kind.lines_of_degree
    assert Counter(groups.values()) == Counter(
        degree for degree in DEGREES for _ in range(max(count // degree, 1))
    )
    assert all(
        SHORT[0] <= line.tokens <= SHORT[1] or LONG[0] <= line.tokens <= LONG[1] for line in lines
    )
    least, most = kind.prefix[0] + OWN_OF_MIXED[0], kind.prefix[1] + OWN_OF_MIXED[1]
    assert all(least <= len(line.prompt) <= most for line in lines)
    assert [line.id for line in mixed_job(kind, 3)] == [line.id for line in lines]
    assert [line.prompt for line in mixed_job(kind, 4)] != [line.prompt for line in lines]


@pytest.mark.parametrize("degree", [2, 4])
def test_planned_lines_are_all_lines_group_by_group_with_the_whole_prefix(degree: int) -> None:
    lines = job(8, degree, seed=1)
    planned = planned_lines(lines)
    assert sorted(request.id for _, request in planned) == sorted(line.id for line in lines)
    prefixes = [line.request.prefix for line, _ in planned]
    assert {prefix and prefix.tokens for prefix in prefixes} == {SHARED}
    names = [prefix.id for prefix in prefixes if prefix]
    assert names == sorted(names, key=names.index)  # no group is left and taken up again
    assert Counter(names) == dict.fromkeys(names, degree)


def test_nested_job_is_planned_to_compute_each_shared_token_once() -> None:
    nested = nested_job(seed=1)
    assert len(nested.lines) == prod(NESTED)
    prompts = JobPrompts.of(line.prompt for line in nested.lines)
    saved = group_in_levels(prompts, PAGE_TOKENS).saved_tokens
    assert nested.logical - saved == nested.least
    planned = planned_lines(nested.lines)
    instructions = [request.id.partition("-")[0] for _, request in planned]
    assert instructions == sorted(instructions, key=instructions.index)


def a_run(prefilled: int, answers: dict[str, list[int]], wrong: str | None = None) -> LiveRun:
    return LiveRun(prefilled, answers, 1.0, 0, 0, wrong)


def test_a_prefix_computed_twice_or_a_different_answer_or_a_wrong_page_misses_a_target() -> None:
    cell_job = degree_job(4, 2)
    least = cell_job.least
    assert least == 2 * SHARED + 4 * OWN
    answers = {"0-0": [1], "0-1": [2], "1-0": [3], "1-1": [4]}
    arrival = a_run(4 * (SHARED + OWN), answers)
    cell = LiveCell(cell_job, 16_384, arrival, a_run(least, answers), a_run(0, {}))
    assert all(each.met for each in targets([cell]))
    assert [row["saved"] for row in rows_of([cell])] == pytest.approx([0.0, 1_000 / 2_200])
    other = LiveCell(
        cell_job,
        16_384,
        arrival,
        a_run(least + SHARED, answers | {"1-1": [5]}),
        a_run(0, {}, "lost"),
    )
    assert not any(each.met for each in targets([cell, other]))
    assert not any(each.met for each in targets([]) if each.value is None)


def measured(seconds: float, work: EngineWork | None = None) -> Measured[JobRun]:
    return Measured(JobRun(seconds, 100, work), CpuNoise(0.0, 0.0), 1)


def test_makespans_are_compared_round_by_round() -> None:
    work = engine_work({"computed_tokens": 600.0, "steps": 3.0, "small_steps": 1.0}, decoded=100)
    runs = {
        "ours": [measured(10.0, work), measured(20.0, work)],
        "arrival order": [measured(14.0, work), measured(28.0, work)],
        "vllm": [measured(10.0), measured(20.0)],
    }
    assert [(t.value, t.met) for t in targets_of_makespan({"a": runs})] == [
        (1.4, True),
        (1.0, False),
    ]
    ours, _, vllm, *ratios = rows_of_makespan({"a": runs}, "tiny")
    assert (ours["prefilled"], ours["tokens_a_step"]) == (500.0, 200.0)
    assert ours["under_a_quarter"] == pytest.approx(1 / 3)
    assert vllm["tokens_a_step"] is None
    assert [row["median"] for row in ratios] == [1.4, 1.0]


def test_another_contestant_begins_each_round() -> None:
    names = ["a", "b", "c"]
    assert [rotated(names, number)[0] for number in range(4)] == ["a", "b", "c", "a"]
