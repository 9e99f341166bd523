"""Plans a job: which lines share a prefix, and the order in which the lines start."""

import asyncio
from array import array
from collections.abc import Sequence

import numpy as np
import structlog
from msgspec import Struct

from gateway.jobs.batches.lines import RankedLine
from gateway.jobs.planning.client import PlanningFailed, plan_in_process
from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.planning.prompt_file import PromptFile
from gateway.jobs.planning.sharing_report import SharingReport
from gateway.jobs.prefix_groups import ALONE, PrefixGroups
from gateway.jobs.prompts import Ints, JobPrompts
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
    """Every line that can run, ranked; and what sharing saves, None without a plan."""

    lines: Sequence[RankedLine]
    report: SharingReport | None = None


class PlanInput:
    """The lines of a job for its plan: the prompts are on disk, the rest takes 16 bytes a line.

    `close` it when the plan is made.
    """

    def __init__(self) -> None:
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

    async def add(self, lines: Sequence[PreparedLine]) -> None:
        """Note lines in the file's order. OSError if the disk is full."""
        await self.prompts.append(JobPrompts.of([line.prompt for line in lines]))
        for line in lines:
            self.numbers.append(line.number)
            self._expected.append(line.prediction.mean)


class JobPlanner:
    """Plans jobs for an engine's page size; without prefix sharing it only orders them."""

    def __init__(self, page_tokens: int, *, sharing: bool = True) -> None:
        self._page_tokens = page_tokens
        self._sharing = sharing

    async def plan(self, lines: PlanInput, caller: Caller) -> RankedJob:
        """The lines ranked, and grouped if that can be done; a job runs without groups, too."""
        if self._sharing:
            try:
                plan = await plan_in_process(
                    lines.prompts,
                    lines.expected,
                    page_tokens=self._page_tokens,
                    salt=caller.tenant_id.hex,
                    new_lines=len(lines.numbers),
                )
            except PlanningFailed as error:
                log.warning("batch_not_grouped", reason=str(error), lines=len(lines.numbers))
            else:
                ranked = _ranked(lines.numbers, plan.groups, plan.ids, plan.ranks)
                return RankedJob(ranked, plan.report)
        return await asyncio.to_thread(_ungrouped, lines)


def _ungrouped(lines: PlanInput) -> RankedJob:
    """The lines in their order without groups."""
    none = np.zeros(0, np.int64)
    groups = PrefixGroups(np.full(len(lines.numbers), ALONE), none, none)
    return RankedJob(
        _ranked(lines.numbers, groups, [], rank_lines(groups, lines.lengths, lines.expected))
    )


def _ranked(
    numbers: Sequence[int], groups: PrefixGroups, ids: Sequence[str], ranks: Ints
) -> list[RankedLine]:
    tokens = groups.prefix_tokens.tolist()
    return [
        RankedLine(number, rank)
        if group == ALONE
        else RankedLine(number, rank, ids[group], tokens[group])
        for number, rank, group in zip(
            numbers, ranks.tolist(), groups.group_of.tolist(), strict=True
        )
    ]
