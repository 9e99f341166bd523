"""Costs per unit of work, learned from measured times by recursive least squares."""

from collections.abc import Sequence
from math import exp, isfinite, log
from typing import Final

import numpy as np

from gateway.quantiles import Floats

MIN_ESTIMATE_S: Final = 1e-6
PRIOR_WEIGHT: Final = 0.01  # of the prior's shape, in outcomes; falls as 1/n² with n outcomes
EAGER_REFIT_OUTCOMES: Final = 64  # each of the first ones refits the coefficients
OUTCOMES_PER_REFIT: Final = 16  # of later ones
MIN_OUTCOMES_TO_CLIP: Final = 8  # before that, estimates are too rough to recognise outliers
MAX_OUTLIER_RATIO: Final = 8.0  # outcomes are clipped to 1/8 … 8 times their estimate


class LearnedCost:
    """Coefficients, never negative, that minimise the relative errors of estimated times.

    The unknowns are multiples θ of the prior's coefficients. An outcome's weight is multiplied by
    `decay` at each newer one. Directions that outcomes do not determine keep the prior's
    proportions at the scale seen so far, so one outcome already gives usable estimates. With a
    `lasting_weight` the prior keeps this weight, in outcomes, against the noise of many.
    """

    def __init__(
        self, prior: Sequence[float], *, decay: float, lasting_weight: float = 0.0
    ) -> None:
        self.coefficients = tuple(prior)
        self.outcomes = 0
        self._prior = np.array(prior)
        self._decay, self._lasting_weight = decay, lasting_weight
        self._gram = np.zeros((len(prior), len(prior)))
        self._moment = np.zeros(len(prior))
        self._log_scale = 0.0
        self._weight = 0.0

    def estimate(self, amounts: Sequence[float]) -> float:
        """The time of these amounts of work, in seconds; above 0."""
        found = sum(c * a for c, a in zip(self.coefficients, amounts, strict=True))
        return max(found, MIN_ESTIMATE_S)

    def observe(self, amounts: Sequence[float], seconds: float) -> float | None:
        """Learn from one outcome. Returns the time it counted as: an outlier's is clipped.

        None if the time is not positive and finite: it is ignored.
        """
        if not (isfinite(seconds) and seconds > 0):
            return None
        if self.outcomes >= MIN_OUTCOMES_TO_CLIP:
            estimate = self.estimate(amounts)
            seconds = max(seconds, estimate / MAX_OUTLIER_RATIO)
            seconds = min(seconds, estimate * MAX_OUTLIER_RATIO)
        share = np.array(amounts) * self._prior / seconds  # (terms,): of the time, at θ = 1
        self._weight = self._decay * self._weight + 1
        self._log_scale += (-log(share.sum()) - self._log_scale) / self._weight
        self._gram = self._decay * self._gram + np.outer(share, share)
        self._moment = self._decay * self._moment + share
        self.outcomes += 1
        if self.outcomes <= EAGER_REFIT_OUTCOMES or self.outcomes % OUTCOMES_PER_REFIT == 0:
            self.coefficients = tuple((self._multiples() * self._prior).tolist())
        return seconds

    def _multiples(self) -> Floats:
        scale = exp(self._log_scale)
        prior_weight = PRIOR_WEIGHT / self._weight**2 + self._lasting_weight
        gram = self._gram + np.eye(len(self._gram)) * prior_weight / scale**2
        return nonnegative_least_squares(gram, self._moment + prior_weight / scale)


def nonnegative_least_squares(gram: Floats, moment: Floats) -> Floats:
    """The θ ≥ 0 that minimises ½ θᵀAθ - bᵀθ, A (n, n) positive definite, b (n,); exact, small n.

    Solves for every subset of nonzero coefficients at once and takes the best feasible solution.
    Where A is singular in double precision, each subset's solution of least norm counts.
    """
    size = len(moment)
    free = (np.arange(2**size)[:, None] >> np.arange(size)) & 1  # (subsets, n)
    grams = gram * free[:, :, None] * free[:, None, :] + (1 - free)[:, :, None] * np.eye(size)
    moments = (moment * free)[:, :, None]
    try:
        solved = np.linalg.solve(grams, moments)[:, :, 0]  # (subsets, n)
    except np.linalg.LinAlgError:
        solved = (np.linalg.pinv(grams, hermitian=True) @ moments)[:, :, 0]
    value = -0.5 * solved @ moment  # of ½ θᵀAθ - bᵀθ at each subset's minimum
    value[(solved < 0).any(axis=1)] = np.inf
    best: Floats = solved[value.argmin()]
    return best
