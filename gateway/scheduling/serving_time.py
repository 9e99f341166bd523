"""How long a batch runs: prefill plus steps, with coefficients learned from outcomes."""

from collections.abc import Sequence
from math import exp, isfinite, log
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.scheduling.requests import QueuedRequest

Floats: TypeAlias = npt.NDArray[np.float64]

LEAST_S: Final = 1e-6
KEEP: Final = 0.998  # an outcome's weight fades by this with each newer one: about 500 count
SHAPE_WEIGHT: Final = 0.01  # outcomes that the prior's shape is worth at first; 1/n² of it later
PROBES: Final = ((1, 64, 16), (1, 64, 1024), (1, 2048, 16), (16, 512, 64), (64, 128, 256))
SAME: Final = 1.1
EARLY: Final = 64  # outcomes, each of which changes the pace at once
FEW: Final = 8  # outcomes; nothing is known of what is usual before
EVERY: Final = 16  # later ones do together
OUTLIER: Final = 8.0  # an outcome counts at most this many times its estimate, and at least 1/8


class Pace(NamedTuple):
    """Seconds a batch, a prompt token, a step, a sequence's step and a KV token read cost."""

    batch: float
    prompt_token: float
    step: float
    sequence_step: float
    token_read: float


PRIOR: Final = Pace(5e-3, 1e-4, 1e-2, 1e-3, 1e-6)  # of no engine in particular; its shape matters


def quantities(size: int, prompt_tokens: float, generation_tokens: float) -> Pace:
    """What a batch takes of each: its S is the sum of these by their pace.

    `prompt_tokens` is L(B), `generation_tokens` G(B): G steps, in each of which every sequence
    reads its KV, on average L + G/2 tokens.
    """
    steps = size * generation_tokens
    reads = steps * (prompt_tokens + generation_tokens / 2)
    return Pace(1.0, size * prompt_tokens, generation_tokens, steps, reads)


def serving_seconds(pace: Pace, size: int, prompt_tokens: float, generation_tokens: float) -> float:
    """S of a batch at this pace; above 0."""
    taken = quantities(size, prompt_tokens, generation_tokens)
    return max(sum(p * q for p, q in zip(pace, taken, strict=True)), LEAST_S)


def same_order(old: Pace, new: Pace) -> bool:
    """Whether two paces put unlike batches in nearly the same proportion.

    Response ratios keep their order when all serving times change alike; here the proportion
    between any two of the probes moved by at most 10 %.
    """
    changes = [serving_seconds(new, *probe) / serving_seconds(old, *probe) for probe in PROBES]
    return max(changes) <= SAME * min(changes)


class ServingTime:
    """S learned by recursive least squares on relative errors, coefficients never negative.

    The unknowns are multiples θ of the prior's pace. Old outcomes fade; what they leave undecided
    keeps the prior's shape at the scale seen so far, so one outcome already gives sane estimates.
    """

    def __init__(self, prior: Pace = PRIOR) -> None:
        self.pace = self._prior = prior
        self._gram = np.zeros((5, 5))
        self._moment = np.zeros(5)
        self._log_scale = 0.0
        self._weight = 0.0
        self._outcomes = 0

    def estimate(self, size: int, prompt_tokens: float, generation_tokens: float) -> float:
        """S in seconds of a batch with this many requests, L(B) and G(B)."""
        return serving_seconds(self.pace, size, prompt_tokens, generation_tokens)

    def of(self, requests: Sequence[QueuedRequest]) -> float:
        """S in seconds of these requests as one batch."""
        longest = max(request.prompt_tokens for request in requests)
        return self.estimate(len(requests), longest, max(request.median for request in requests))

    def observe(
        self, size: int, prompt_tokens: float, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn from one outcome; one that is not a positive time is ignored."""
        if not (isfinite(serving_s) and serving_s > 0):
            return
        if self._outcomes >= FEW:
            usual = self.estimate(size, prompt_tokens, generation_tokens)
            serving_s = min(max(serving_s, usual / OUTLIER), usual * OUTLIER)
        taken = np.array(quantities(size, prompt_tokens, generation_tokens))
        share = taken * self._prior / serving_s  # (5,): at θ = 1, what each takes of the outcome
        self._weight = KEEP * self._weight + 1
        self._log_scale += (-log(share.sum()) - self._log_scale) / self._weight
        self._gram = KEEP * self._gram + np.outer(share, share)
        self._moment = KEEP * self._moment + share
        self._outcomes += 1
        if self._outcomes <= EARLY or self._outcomes % EVERY == 0:
            self.pace = Pace(*(self._multiples() * self._prior).tolist())

    def _multiples(self) -> Floats:
        scale, shape_weight = exp(self._log_scale), SHAPE_WEIGHT / self._weight**2
        gram = self._gram + np.eye(5) * shape_weight / scale**2
        return nonnegative_minimum(gram, self._moment + shape_weight / scale)


def nonnegative_minimum(gram: Floats, moment: Floats) -> Floats:
    """The θ ≥ 0 of least ½ θᵀAθ - bᵀθ, A (n, n) positive definite, b (n,); exact, for small n.

    Every subset of free coefficients is solved at once, and the best that is feasible taken.
    """
    size = len(moment)
    free = (np.arange(2**size)[:, None] >> np.arange(size)) & 1  # (subsets, n)
    grams = gram * free[:, :, None] * free[:, None, :] + (1 - free)[:, :, None] * np.eye(size)
    solved = np.linalg.solve(grams, (moment * free)[:, :, None])[:, :, 0]  # (subsets, n)
    value = -0.5 * solved @ moment  # of ½ θᵀAθ - bᵀθ, where the free part is at its minimum
    value[(solved < 0).any(axis=1)] = np.inf
    best: Floats = solved[value.argmin()]
    return best
