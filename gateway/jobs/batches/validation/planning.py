"""Plans a job with those that wait: which lines share a prefix, and the order they start in."""

import asyncio
from array import array
from collections.abc import Sequence
from uuid import UUID

import numpy as np
import structlog
from msgspec import Struct

from gateway.jobs.batches.lines import Prefix, RankedLine
from gateway.jobs.batches.validation.queued import QueuedJobs
from gateway.jobs.planning.client import PlanningFailed, plan_in_process
from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.planning.plan import JobPlan
from gateway.jobs.planning.prompt_file import PromptFile
from gateway.jobs.planning.sharing_report import SharingReport
from gateway.jobs.prefix_groups import ALONE, PrefixGroups
from gateway.jobs.prompts import Ints, JobPrompts, PromptPages
from gateway.prediction.messages import Prediction
from gateway.quantiles import Floats
from gateway.tenancy.caller import Caller

log = structlog.get_logger()


class PreparedLine(Struct, frozen=True):
    """What the plan needs of a line."""

    number: int
    prompt: list[int]
    prediction: Prediction


class RankedJob(Struct, frozen=True):
    """Every line that can run, ranked; and what sharing saves, None without a plan.

    `queued` are the lines of other jobs, of those with a line whose prefix has changed.
    """

    lines: Sequence[RankedLine]
    report: SharingReport | None = None
    queued: Sequence["RerankedJob"] = ()


class RerankedJob(Struct, frozen=True):
    """The waiting lines of another job, ranked; they share `more_shared` more tokens."""

    job: UUID
    lines: Sequence[RankedLine]
    more_shared: int


class PlanInput:
    """The lines of a job for its plan: the prompts are on disk, the rest takes 16 bytes a line.

    `close` it when the plan is made.
    """

    def __init__(self, page_tokens: int) -> None:
        self._page_tokens = page_tokens
        self.prompts = PromptFile()
        self.numbers = array("q")
        self._expected = array("f")

    def close(self) -> None:
        """Close the file of the prompts."""
        self.prompts.close()

    @property
    def expected(self) -> Floats:
        """Expected tokens of each answer: (lines,)."""
        return np.frombuffer(self._expected, np.float32).astype(np.float64)

    @property
    def lengths(self) -> Ints:
        """Tokens of each prompt: (lines,)."""
        return np.frombuffer(self.prompts.lengths, np.uint32).astype(np.int64)

    async def add(self, lines: Sequence[PreparedLine]) -> dict[int, bytes]:
        """Note lines in the file's order; returns the hashes of each line's pages by its number.

        OSError if the disk is full.
        """
        prompts = await asyncio.to_thread(JobPrompts.of, [line.prompt for line in lines])
        await self.prompts.append(prompts)
        for line in lines:
            self.numbers.append(line.number)
            self._expected.append(line.prediction.mean)
        pages = await asyncio.to_thread(PromptPages.of, prompts, self._page_tokens)
        numbers = (line.number for line in lines)
        return dict(zip(numbers, pages.packed(), strict=True))


class JobPlanner:
    """Plans jobs for an engine's page size; without prefix sharing it only orders them."""

    def __init__(self, page_tokens: int, *, sharing: bool = True) -> None:
        self.page_tokens = page_tokens
        self.sharing = sharing

    async def plan(self, lines: PlanInput, queued: QueuedJobs, caller: Caller) -> RankedJob:
        """The lines ranked, and grouped if that can be done; a job runs without groups, too."""
        if self.sharing:
            try:
                plan = await plan_in_process(
                    lines.prompts,
                    np.concatenate((queued.expected, lines.expected)),
                    queued.prompts,
                    page_tokens=self.page_tokens,
                    salt=caller.tenant_id.hex,
                )
            except PlanningFailed as error:
                log.warning("batch_not_grouped", reason=str(error), lines=len(lines.numbers))
            else:
                return await asyncio.to_thread(_planned, plan, lines, queued)
        return await asyncio.to_thread(_ungrouped, lines)


def _ungrouped(lines: PlanInput) -> RankedJob:
    """The lines in their order without groups."""
    none = np.zeros(0, np.int64)
    groups = PrefixGroups(np.full(len(lines.numbers), ALONE), none, none)
    return RankedJob(
        _ranked(lines.numbers, groups, [], rank_lines(groups, lines.lengths, lines.expected))
    )


def _planned(plan: JobPlan, lines: PlanInput, queued: QueuedJobs) -> RankedJob:
    """The lines as planned, and the jobs of which the plan changes a line's prefix."""
    numbers = [*queued.numbers, *lines.numbers]
    ranked = _ranked(numbers, plan.groups, plan.ids, plan.ranks)
    of_job: list[list[RankedLine]] = [[] for _ in queued.jobs]
    more_shared = [0] * len(queued.jobs)
    changed = set()
    waiting = zip(ranked[: len(queued)], queued.job_of, queued.prefixes_of, strict=True)
    for line, place, before in waiting:
        of_job[place].append(line)
        if (line.prefix, line.outer) != before:
            more_shared[place] += line.prefix.tokens - before[0].tokens
            changed.add(place)
    reranked = [RerankedJob(queued.jobs[p], of_job[p], more_shared[p]) for p in sorted(changed)]
    return RankedJob(ranked[len(queued) :], plan.report, reranked)


def _ranked(
    numbers: Sequence[int], groups: PrefixGroups, ids: Sequence[str], ranks: Ints
) -> list[RankedLine]:
    tokens, outermost = groups.prefix_tokens.tolist(), groups.outermost().tolist()
    prefixes = [Prefix(*each) for each in zip(ids, tokens, strict=True)]
    outer = [Prefix() if top == group else prefixes[top] for group, top in enumerate(outermost)]
    return [
        RankedLine(number, rank)
        if group == ALONE
        else RankedLine(number, rank, prefixes[group], outer[group])
        for number, rank, group in zip(
            numbers, ranks.tolist(), groups.group_of.tolist(), strict=True
        )
    ]
