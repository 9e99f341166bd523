"""The serving time of a batch: prefill plus steps, with coefficients learned from outcomes."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from gateway.quantiles import Floats
from gateway.scheduling.learned_cost import MIN_ESTIMATE_S, LearnedCost
from gateway.scheduling.requests import QueuedRequest

OUTCOME_DECAY: Final = 0.998  # of an outcome's weight per newer one: a window of about 500
PROBE_BATCHES: Final = ((1, 64, 16), (1, 64, 1024), (1, 2048, 16), (16, 512, 64), (64, 128, 256))
MAX_PROPORTION_CHANGE: Final = 1.1


class CostTerms(NamedTuple):
    """The terms of a serving time: coefficients, in seconds per unit, or amounts, in units.

    Units: a batch, a prompt token, a step, a step of one sequence, a KV token read.
    """

    batch: float
    prompt_token: float
    step: float
    sequence_step: float
    token_read: float


PRIOR: Final = CostTerms(5e-3, 1e-4, 1e-2, 1e-3, 1e-6)  # of no particular engine


def term_amounts(size: int, prompt_tokens: float, generation_tokens: float) -> CostTerms:
    """The amount of each term in a batch; S is the sum of amounts times coefficients.

    `prompt_tokens` is L(B), `generation_tokens` G(B): G steps, in each of which every sequence
    reads its KV, on average L + G/2 tokens.
    """
    steps = size * generation_tokens
    reads = steps * (prompt_tokens + generation_tokens / 2)
    return CostTerms(1.0, size * prompt_tokens, generation_tokens, steps, reads)


def serving_seconds(
    coefficients: CostTerms, size: int, prompt_tokens: float, generation_tokens: float
) -> float:
    """S of a batch with these coefficients; above 0."""
    amounts = term_amounts(size, prompt_tokens, generation_tokens)
    return max(sum(c * a for c, a in zip(coefficients, amounts, strict=True)), MIN_ESTIMATE_S)


def batch_seconds(
    coefficients: CostTerms, sizes: Floats, prompt_tokens: Floats, generation_tokens: Floats
) -> Floats:
    """S of several batches, (n,), like `serving_seconds`."""
    steps = sizes * generation_tokens
    found: Floats = (
        coefficients.batch
        + coefficients.prompt_token * sizes * prompt_tokens
        + coefficients.step * generation_tokens
        + coefficients.sequence_step * steps
        + coefficients.token_read * steps * (prompt_tokens + generation_tokens / 2)
    )
    return np.maximum(found, MIN_ESTIMATE_S)


def same_order(old: CostTerms, new: CostTerms) -> bool:
    """Whether two sets of coefficients give serving times of nearly the same proportions.

    Response ratios keep their order when all serving times change by one factor. This tests that
    the proportion of any two probe batches changed by at most 10 %.
    """
    ratios = [
        serving_seconds(new, *probe) / serving_seconds(old, *probe) for probe in PROBE_BATCHES
    ]
    return max(ratios) <= MAX_PROPORTION_CHANGE * min(ratios)


class ServingTime:
    """S learned from the outcomes of batches, see `LearnedCost`; old outcomes decay."""

    def __init__(self, prior: CostTerms = PRIOR) -> None:
        self.coefficients = prior
        self._learned = LearnedCost(prior, decay=OUTCOME_DECAY)

    def estimate(self, size: int, prompt_tokens: float, generation_tokens: float) -> float:
        """S in seconds of a batch of `size` requests with L(B) and G(B)."""
        return serving_seconds(self.coefficients, size, prompt_tokens, generation_tokens)

    def of(self, requests: Sequence[QueuedRequest]) -> float:
        """S in seconds of these requests as one batch."""
        longest = max(request.prompt_tokens for request in requests)
        return self.estimate(len(requests), longest, max(request.median for request in requests))

    def observe(
        self, size: int, prompt_tokens: float, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn from one outcome; a time that is not positive and finite is ignored."""
        self._learned.observe(term_amounts(size, prompt_tokens, generation_tokens), serving_s)
        self.coefficients = CostTerms(*self._learned.coefficients)
