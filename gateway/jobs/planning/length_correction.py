"""Corrects the predicted lengths of a job's lines by the outcomes of its first lines.

The log length of a line is its predicted log median, plus a shift common to the job or the label,
plus noise of the predicted spread times a common stretch: an accelerated failure time model with
logistic noise, whose tails are wide enough for outliers. A line that runs, was cut off or was
cancelled counts as a lower bound, in full: the first to end are the short ones, and those alone
would make every job look short. Shift and stretch are posterior means over a grid. A label, such as
a group, has the job's shift as its prior: few outcomes of its own move it little.
"""

import math
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.jobs.prompts import Ints
from gateway.quantiles import LEVELS, MEDIAN, P90, Bools, Floats

P10: Final = LEVELS.index(0.1)
P75: Final = LEVELS.index(0.75)
LN_9: Final = math.log(9)  # from median to 0.9 quantile of the logistic distribution, in scales
SHIFTS: Final = np.linspace(-4.5, 4.5, 181)  # up to 90 times as long
LN_STRETCHES: Final = np.linspace(-1.5, 2.0, 11)
JOB_SHIFT_SCALE: Final = 0.6  # of the logistic prior of the job's shift, around 0
LABEL_SHIFT_SCALE: Final = 0.2  # of a label's, around the job's
LN_STRETCH_SD: Final = 0.5
MIN_SCALE: Final = 0.03  # a tighter prediction would take any outcome as proof
UNKNOWN_SCALE: Final = 0.5  # where all quantiles are the limit
MAX_OUTCOMES: Final = 2_000  # the latest; more change nothing
CHANGES_ORDER: Final = math.log(1.25)  # of one label against another


class LineOutcomes(Struct, frozen=True):
    """Lines that have started, in this order: the running ones too.

    `quantiles` as predicted at first: (n, len(LEVELS)). `generated` tokens so far, (n,), and
    whether the answer `ended` by itself there: not one that still runs or was cut off. `labels`
    are 0 or more, -1 for none: (n,).
    """

    quantiles: Floats
    generated: Ints
    ended: Bools
    labels: Ints


class LengthCorrection(Struct, frozen=True):
    """What to add to log lengths and the factor on their spread: (labels + 1,) each.

    The last is that of the job, for lines without a label.
    """

    shifts: Floats
    stretches: Floats

    def correct(self, quantiles: Floats, labels: Ints, max_tokens: Ints) -> Floats:
        """The corrected quantiles: (n, len(LEVELS)), from 1 to `max_tokens`, rising."""
        logs = np.log(np.maximum(quantiles, 1.0))
        median = logs[:, MEDIAN : MEDIAN + 1]
        logs = median + self.shifts[labels, None] + self.stretches[labels, None] * (logs - median)
        corrected: Floats = np.clip(np.exp(logs), 1.0, max_tokens[:, None])
        return corrected

    def reorders(self, ranked: "LengthCorrection") -> bool:
        """Whether lines ranked with that correction should be ranked again.

        A shift that all have in common changes no order.
        """
        change = self.shifts - ranked.shifts
        return bool(np.ptp(change) > CHANGES_ORDER)


def no_correction(labels: int) -> LengthCorrection:
    """The correction before the first outcome."""
    return LengthCorrection(np.zeros(labels + 1), np.ones(labels + 1))


def learn_correction(outcomes: LineOutcomes, labels: int) -> LengthCorrection:
    """The correction by all outcomes so far of a job with this number of labels."""
    latest = _latest_informative(outcomes.quantiles)
    logs = np.log(np.maximum(outcomes.quantiles[latest], 1.0))
    medians = logs[:, MEDIAN]
    spreads = np.maximum(logs[:, P90] - medians, medians - logs[:, P10])  # one may be clipped
    scales = np.where(spreads > 0, np.maximum(spreads / LN_9, MIN_SCALE), UNKNOWN_SCALE)
    residuals = np.log(np.maximum(outcomes.generated[latest], 0.5)) - medians
    ended, of_label = outcomes.ended[latest], outcomes.labels[latest]

    job = _posterior(residuals, scales, ended, JOB_SHIFT_SCALE, (0.0, 0.0))
    shifts, stretches = np.full(labels + 1, job[0]), np.full(labels + 1, job[1])
    for label in np.unique(of_label[of_label >= 0]).tolist():
        chosen = of_label == label
        shifts[label], stretches[label] = _posterior(
            residuals[chosen], scales[chosen], ended[chosen], LABEL_SHIFT_SCALE, job
        )
    return LengthCorrection(shifts, np.exp(stretches))


def _latest_informative(quantiles: Floats) -> Ints:
    """The lines to learn from: those whose predicted median is no limit, if there are any.

    A median clipped by `max_tokens` does not say by how much the prediction was wrong.
    """
    free = np.flatnonzero(quantiles[:, P75] > quantiles[:, MEDIAN])
    return (free if len(free) else np.arange(len(quantiles)))[-MAX_OUTCOMES:]


def _posterior(
    residuals: Floats,
    scales: Floats,
    ended: Bools,
    shift_scale: float,
    around: tuple[float, float],
) -> tuple[float, float]:
    """Posterior means of shift and log stretch; `around` are those of the prior."""
    shift, ln_stretch = around
    z = np.abs(SHIFTS - shift) / shift_scale
    log_prior = -z - 2 * np.log1p(np.exp(-z))  # logistic
    log_posterior = (
        log_prior[:, None] - 0.5 * ((LN_STRETCHES - ln_stretch) / LN_STRETCH_SD) ** 2
    )  # (shifts, stretches)
    for column, stretch in enumerate(np.exp(LN_STRETCHES).tolist()):
        z = (residuals - SHIFTS[:, None]) / (scales * stretch)  # (shifts, outcomes)
        beyond = -np.logaddexp(0.0, z)  # log of the survival function
        density = 2 * beyond + z - np.log(scales * stretch)
        log_posterior[:, column] += np.where(ended, density, beyond).sum(axis=1)
    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    return float(weights.sum(axis=1) @ SHIFTS), float(weights.sum(axis=0) @ LN_STRETCHES)
