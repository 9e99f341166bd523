"""The serving time of a batch: prefill plus steps, with coefficients learned from outcomes."""

from collections.abc import Sequence
from math import exp, isfinite, log
from typing import Final, NamedTuple

import numpy as np

from gateway.quantiles import Floats
from gateway.scheduling.requests import QueuedRequest

MIN_SERVING_S: Final = 1e-6
OUTCOME_DECAY: Final = 0.998  # of an outcome's weight per newer one: a window of about 500
PRIOR_WEIGHT: Final = 0.01  # of the prior's shape, in outcomes; falls as 1/n² with n outcomes
PROBE_BATCHES: Final = ((1, 64, 16), (1, 64, 1024), (1, 2048, 16), (16, 512, 64), (64, 128, 256))
MAX_PROPORTION_CHANGE: Final = 1.1
EAGER_REFIT_OUTCOMES: Final = 64  # each of the first ones refits the coefficients
OUTCOMES_PER_REFIT: Final = 16  # of later ones
MIN_OUTCOMES_TO_CLIP: Final = 8  # before that, estimates are too rough to recognise outliers
MAX_OUTLIER_RATIO: Final = 8.0  # outcomes are clipped to 1/8 … 8 times their estimate


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
    return max(sum(c * a for c, a in zip(coefficients, amounts, strict=True)), MIN_SERVING_S)


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
    """S learned by recursive least squares on relative errors, coefficients never negative.

    The unknowns are multiples θ of the prior's coefficients. Old outcomes decay; directions that
    they do not determine keep the prior's proportions at the scale seen so far, so one outcome
    already gives usable estimates.
    """

    def __init__(self, prior: CostTerms = PRIOR) -> None:
        self.coefficients = self._prior = prior
        self._gram = np.zeros((5, 5))
        self._moment = np.zeros(5)
        self._log_scale = 0.0
        self._weight = 0.0
        self._outcomes = 0

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
        if not (isfinite(serving_s) and serving_s > 0):
            return
        if self._outcomes >= MIN_OUTCOMES_TO_CLIP:
            estimate = self.estimate(size, prompt_tokens, generation_tokens)
            serving_s = max(serving_s, estimate / MAX_OUTLIER_RATIO)
            serving_s = min(serving_s, estimate * MAX_OUTLIER_RATIO)
        amounts = np.array(term_amounts(size, prompt_tokens, generation_tokens))
        share = amounts * self._prior / serving_s  # (5,): each term's share of S at θ = 1
        self._weight = OUTCOME_DECAY * self._weight + 1
        self._log_scale += (-log(share.sum()) - self._log_scale) / self._weight
        self._gram = OUTCOME_DECAY * self._gram + np.outer(share, share)
        self._moment = OUTCOME_DECAY * self._moment + share
        self._outcomes += 1
        if self._outcomes <= EAGER_REFIT_OUTCOMES or self._outcomes % OUTCOMES_PER_REFIT == 0:
            self.coefficients = CostTerms(*(self._multiples() * self._prior).tolist())

    def _multiples(self) -> Floats:
        scale, prior_weight = exp(self._log_scale), PRIOR_WEIGHT / self._weight**2
        gram = self._gram + np.eye(5) * prior_weight / scale**2
        return nonnegative_least_squares(gram, self._moment + prior_weight / scale)


def nonnegative_least_squares(gram: Floats, moment: Floats) -> Floats:
    """The θ ≥ 0 that minimises ½ θᵀAθ - bᵀθ, A (n, n) positive definite, b (n,); exact, small n.

    Solves for every subset of nonzero coefficients at once and takes the best feasible solution.
    """
    size = len(moment)
    free = (np.arange(2**size)[:, None] >> np.arange(size)) & 1  # (subsets, n)
    grams = gram * free[:, :, None] * free[:, None, :] + (1 - free)[:, :, None] * np.eye(size)
    solved = np.linalg.solve(grams, (moment * free)[:, :, None])[:, :, 0]  # (subsets, n)
    value = -0.5 * solved @ moment  # of ½ θᵀAθ - bᵀθ at each subset's minimum
    value[(solved < 0).any(axis=1)] = np.inf
    best: Floats = solved[value.argmin()]
    return best
