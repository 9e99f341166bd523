"""A batch job for a replay: its lines in the groups and the order that the gateway plans."""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest
from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.prefix_groups import ALONE, PrefixGroups, group_by_prefix
from gateway.jobs.prompts import Ints, JobPrompts
from gateway.quantiles import MEDIAN
from gateway.replay.workload.predictions import TAU, PredictorName, with_predictions
from gateway.replay.workload.workload import NO_PREFIX, Workload
from gateway.scheduling.requests import SharedPrefix

TENANT: Final = "batch job"


@dataclass(frozen=True, kw_only=True)
class ReplayJob:
    """The lines of a job, which all wait from `start_s` after the first request on.

    `prompt_tokens`, `generation_tokens` (the true lengths) and `max_tokens` are (lines,).
    """

    name: str
    start_s: float
    prompt_tokens: Ints
    generation_tokens: Ints
    max_tokens: Ints
    groups: PrefixGroups

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def saved_share(self) -> float:
        """The share of the prompt tokens that is saved if each prefix is computed once."""
        return float(self.groups.saved_tokens / self.prompt_tokens.sum())

    def with_answers(self, generation_tokens: Ints) -> Self:
        """The same lines with answers of these lengths: (lines,)."""
        longest = np.full(len(self), generation_tokens.max(initial=1))
        return replace(self, generation_tokens=generation_tokens, max_tokens=longest)

    def within(self, tokens: int) -> Self:
        """The lines whose prompt and answer fit `tokens`; max_tokens is cut to fit too.

        InvalidRequest if none fits.
        """
        fits = self.prompt_tokens + self.generation_tokens <= tokens
        kept = np.flatnonzero(fits)
        if not len(kept):
            raise InvalidRequest(
                f"no line of the job fits the engine: a sequence has at most {tokens:,} tokens"
            )
        prompts = self.prompt_tokens[kept]
        return replace(
            self,
            prompt_tokens=prompts,
            generation_tokens=self.generation_tokens[kept],
            max_tokens=np.minimum(self.max_tokens[kept], tokens - prompts),
            groups=self.groups.of_prompts(kept),
        )

    def requests(
        self, predictor: PredictorName, random: np.random.Generator, tau: float = TAU
    ) -> Workload:
        """The lines as requests, in the order in which they are to start.

        No prediction of theirs is recorded: noisy ones stand for `recorded`.
        """
        lines = Workload.of(
            np.zeros(len(self)),
            self.prompt_tokens,
            self.generation_tokens,
            max_tokens=self.max_tokens,
            batch=True,
            prefix=np.where(self.groups.group_of == ALONE, NO_PREFIX, self.groups.group_of),
            prefixes=[
                SharedPrefix(f"group {number}", tokens)
                for number, tokens in enumerate(self.groups.prefix_tokens.tolist())
            ],
            tenants=[TENANT],
        )
        name = "noise" if predictor == "recorded" else predictor
        predicted = with_predictions(lines, name, random, tau)
        expected = predicted.quantiles[:, MEDIAN].astype(np.float64)
        order = np.argsort(rank_lines(self.groups, self.prompt_tokens, expected))
        return predicted.take(order).with_arrivals(np.full(len(self), self.start_s))


def synthetic_job(
    lines: int, *, shared: int, own: int, answer: int, degree: int, page_tokens: int, start_s: float
) -> ReplayJob:
    """Lines in groups of `degree` that have `shared` tokens in common, and `own` ones each."""
    group_of = np.arange(lines) // degree
    whole = shared // page_tokens * page_tokens
    alone = (np.bincount(group_of)[group_of] == 1) | (whole == 0)
    groups = int(group_of.max()) + 1 if lines else 0
    return ReplayJob(
        name=f"{lines:,} lines of {shared:,} shared and {own:,} own tokens, {degree} a group",
        start_s=start_s,
        prompt_tokens=np.full(lines, shared + own),
        generation_tokens=np.full(lines, answer),
        max_tokens=np.full(lines, answer),
        groups=_without_empty(np.where(alone, ALONE, group_of), np.full(groups, whole)),
    )


def job_of_prompts(
    name: str,
    prompts: JobPrompts,
    generation_tokens: npt.ArrayLike,
    max_tokens: npt.ArrayLike,
    *,
    page_tokens: int,
    start_s: float,
) -> ReplayJob:
    """The job of these prompts, grouped by the prefixes that they share."""
    return ReplayJob(
        name=name,
        start_s=start_s,
        prompt_tokens=prompts.lengths,
        generation_tokens=np.asarray(generation_tokens, np.int64),
        max_tokens=np.asarray(max_tokens, np.int64),
        groups=group_by_prefix(prompts, page_tokens),
    )


def _without_empty(group_of: Ints, prefix_tokens: Ints) -> PrefixGroups:
    """One level of groups, numbered without those that have no line."""
    found, places = np.unique(group_of, return_inverse=True)
    first = int(found[0] == ALONE) if len(found) else 0
    kept = found[first:]
    return PrefixGroups(places - first, prefix_tokens[kept], np.full(len(kept), ALONE))
