"""The time of a step on this machine, learned from the steps before."""

from collections import deque
from math import isfinite
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from engine.protocol import StepWork

Floats: TypeAlias = npt.NDArray[np.float64]

MIN_STEPS: Final = 32  # fewer say too little
MAX_STEPS: Final = 512  # the newest ones, which are those of the machine as it is now
STEPS_PER_FIT: Final = 32
FIT_ROUNDS: Final = 3  # of weights against outliers
MIN_OUTLIER: Final = 0.25  # relative error; rare kinds of steps are no outliers
PRIOR_STEPS: Final = 1e-3  # weight of the prior's proportions, in steps

FULL_SPEED: Final = 0.9  # of the tokens per second that any number of rows reaches
ROW_VARIETY: Final = 2.0  # ninth decile of rows over the first, for a fit of a row's time

# Seconds of a step; more if it has a prompt; and per prompt token, KV token that it reads,
# sequence that decodes, and KV token that one reads. Only the proportions count, and only where
# steps do not decide: then a sequence more costs a tenth of a step.
PRIOR: Final = (1e-2, 1e-3, 1e-4, 1e-7, 1e-3, 1e-6)


class StepCost:
    """A linear model of a step's time; robust against steps that a busy machine delayed.

    Coefficients are never negative and minimise relative errors, outliers weighted less. They are
    fitted only when `coefficients` are asked for. `None` before `MIN_STEPS` steps.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[StepWork, float]] = deque(maxlen=MAX_STEPS)
        self._new = 0  # steps since the last fit
        self._coefficients: tuple[float, ...] | None = None
        self._full_rows: float | None = None
        self.blind_fits = 0  # before `full_rows`, from steps of like numbers of rows

    def observe(self, work: StepWork, model_s: float) -> None:
        """Record the time of a step."""
        if isfinite(model_s) and model_s > 0:
            self._steps.append((work, model_s))
            self._new += 1

    def clear(self) -> None:
        """Drop all steps: those to come take another time."""
        self._steps.clear()
        self._coefficients = self._full_rows = None
        self.blind_fits = 0

    @property
    def coefficients(self) -> tuple[float, ...] | None:
        """Seconds for each of `amounts`."""
        if len(self._steps) >= MIN_STEPS and (
            self._coefficients is None or self._new >= STEPS_PER_FIT
        ):
            self._coefficients = self._fit()
            self._new = 0
            if self._rows_vary():
                found = full_rows(self._coefficients, self._row_reads())
                self._full_rows = found or self._full_rows
            else:
                self.blind_fits += self._full_rows is None
        return self._coefficients

    @property
    def full_rows(self) -> float | None:
        """Rows with which decoding is at `FULL_SPEED`, by the latest fit that could see it.

        None until steps have decoded few rows and many.
        """
        return self._full_rows

    def seconds(self, work: StepWork) -> float | None:
        """The time of a step."""
        coefficients = self.coefficients
        if coefficients is None:
            return None
        return sum(c * a for c, a in zip(coefficients, amounts(work), strict=True))

    def _row_reads(self) -> float:
        """The KV tokens that a row read, on average."""
        reads = sum(work.kv_tokens for work, _ in self._steps)
        return reads / sum(work.sequences for work, _ in self._steps)

    def _rows_vary(self) -> bool:
        rows = [work.sequences for work, _ in self._steps if work.sequences]
        if len(rows) < MIN_STEPS:
            return False
        few, many = np.quantile(rows, (0.1, 0.9))
        return bool(many >= ROW_VARIETY * few)

    def _fit(self) -> tuple[float, ...]:
        prior = np.array(PRIOR)
        work = np.array([amounts(work) for work, _ in self._steps])  # (steps, terms)
        seconds = np.array([model_s for _, model_s in self._steps])
        shares = work * prior / seconds[:, None]  # of the time, at multiples of 1
        scale = float(np.median(1 / shares.sum(1)))
        multiples, weights = np.full(len(prior), scale), np.ones(len(seconds))
        prior_weight = PRIOR_STEPS / scale**2
        for _ in range(FIT_ROUNDS):
            weighted = shares * weights[:, None]
            gram = weighted.T @ shares + np.eye(len(prior)) * prior_weight
            multiples = nonnegative_least_squares(gram, weighted.sum(0) + prior_weight * scale)
            error = np.abs(1 - shares @ multiples)
            limit = max(3 * float(np.median(error)), MIN_OUTLIER)
            weights = np.minimum(1, limit / np.maximum(error, 1e-9)) ** 2
        return tuple((multiples * prior).tolist())


def full_rows(coefficients: tuple[float, ...], row_reads: float) -> float | None:
    """The rows with which decoding reaches `FULL_SPEED`, if each reads this many KV tokens.

    A step of n rows takes a + b·n seconds and gives n / (a + b·n) tokens per second, which stays
    below 1 / b. It is the share s of that at n = a/b · s / (1 - s); there 1 % more rows give
    (1 - s) % more tokens per second. None if the fit ascribes no time to steps or none to rows: it
    could not separate these.
    """
    step_s, _, _, _, row_s, read_s = coefficients
    each_s = row_s + read_s * row_reads
    if not (step_s and each_s):
        return None
    return step_s / each_s * FULL_SPEED / (1 - FULL_SPEED)


def amounts(work: StepWork) -> tuple[float, ...]:
    """The work in the order of `PRIOR`."""
    prompt = float(work.prompt_tokens > 0)
    return 1.0, prompt, work.prompt_tokens, work.prompt_reads, work.sequences, work.kv_tokens


def nonnegative_least_squares(gram: Floats, moment: Floats) -> Floats:
    """The θ ≥ 0 that minimises ½ θᵀAθ - bᵀθ; A (n, n) positive semidefinite, b (n,); small n.

    The best of the minima over each subset of coefficients that may differ from 0. A subset whose
    equations are singular is left out: a smaller one has as good a minimum.
    """
    size = len(moment)
    best, best_value = np.zeros(size), 0.0
    for subset in range(1, 2**size):
        free = [index for index in range(size) if subset >> index & 1]
        try:
            solved = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
        except np.linalg.LinAlgError:
            continue
        value = -0.5 * float(solved @ moment[free])
        if value < best_value and (solved >= 0).all():
            best, best_value = np.zeros(size), value
            best[free] = solved
    return best
