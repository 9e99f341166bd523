"""Plans a job: which lines share a prefix, and the order in which the lines start."""

import asyncio
from array import array
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.jobs.batches.lines import RankedLine
from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.prefix_groups import ALONE, PrefixGroups, group_by_prefix, prefix_ids
from gateway.jobs.prompts import Ints, JobPrompts
from gateway.prediction.messages import Prediction
from gateway.tenancy.caller import Caller

LARGEST: Final = 64 << 20  # tokens of a job that is grouped: 256 MB


class SharingReport(Struct, frozen=True, kw_only=True):
    """What prefix sharing saves: prompt tokens of all lines, and those that are computed."""

    prompt_tokens: int
    computed_tokens: int
    saved_share: float
    groups: int


class JobPlan(Struct, frozen=True):
    """Every line that can run, ranked; and the report, None if the job is too large to group."""

    lines: Sequence[RankedLine]
    report: SharingReport | None


class LineSizes:
    """The prompts and predicted answers of a job's lines, compact."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.predicted = array("d")
        self.tokens = array("I")
        self.starts = array("q", [0])
        self.complete = True  # whether the prompts of all lines are there

    def add(self, number: int, prompt: Sequence[int], prediction: Prediction) -> None:
        """Note a line. The tokens are dropped once the job is too large to be grouped."""
        self.numbers.append(number)
        self.predicted.append(prediction.mean)
        if self.complete and len(self.tokens) + len(prompt) > LARGEST:
            self.complete, self.tokens = False, array("I")
        if self.complete:
            self.tokens.extend(prompt)
        self.starts.append(self.starts[-1] + len(prompt))

    @property
    def lengths(self) -> Ints:
        """The tokens of each prompt: (lines,)."""
        starts: Ints = np.frombuffer(self.starts, np.int64)
        return starts[1:] - starts[:-1]

    def prompts(self) -> JobPrompts:
        """The prompts as the grouping reads them."""
        tokens = np.frombuffer(self.tokens, np.uint32) if self.tokens else np.zeros(0, np.uint32)
        return JobPrompts(tokens, np.frombuffer(self.starts, np.int64))


class JobPlanner:
    """Plans jobs for an engine's page size; without prefix sharing it only orders them."""

    def __init__(self, page_tokens: int, *, sharing: bool = True) -> None:
        self._page_tokens = page_tokens
        self._sharing = sharing

    async def plan(self, sizes: LineSizes, caller: Caller) -> JobPlan:
        """The plan, made in a thread."""
        return await asyncio.to_thread(self.plan_now, sizes, caller)

    def plan_now(self, sizes: LineSizes, caller: Caller) -> JobPlan:
        """The same, at once."""
        lengths = sizes.lengths
        report, ids = None, list[str]()
        none = np.zeros(0, np.int64)
        groups = PrefixGroups(np.full(len(lengths), ALONE), none, none)
        if self._sharing and sizes.complete:
            prompts = sizes.prompts()
            groups = group_by_prefix(prompts, self._page_tokens)
            report = _report(prompts, groups)
            ids = prefix_ids(prompts, groups, caller.tenant_id.hex)
        predicted = np.frombuffer(sizes.predicted, np.float64)
        ranks = rank_lines(groups, lengths, predicted)
        return JobPlan(
            [
                RankedLine(number, rank)
                if group == ALONE
                else RankedLine(number, rank, ids[group], int(groups.prefix_tokens[group]))
                for number, rank, group in zip(
                    sizes.numbers, ranks.tolist(), groups.group_of.tolist(), strict=True
                )
            ],
            report,
        )


def _report(prompts: JobPrompts, groups: PrefixGroups) -> SharingReport:
    total = int(prompts.lengths.sum())
    saved = groups.saved_tokens
    return SharingReport(
        prompt_tokens=total,
        computed_tokens=total - saved,
        saved_share=round(saved / total, 4) if total else 0.0,
        groups=len(groups.prefix_tokens),
    )
