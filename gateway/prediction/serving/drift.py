"""Prediction quality over the newest outcomes: coverage and Kendall's τ.

τ is updated exactly: an outcome is compared with each other of the window. As in `fitting`, only
lengths that ended naturally or at their own `max_tokens` are evaluated.
"""

from collections import OrderedDict
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.history.record import Record
from gateway.quantiles import LEVELS, MEDIAN, P90

MIN_OUTCOMES: Final = 100  # per window; with fewer, no quality is reported
MAX_APPS: Final = 2_000
NOMINAL_COVERAGE: Final = LEVELS[P90]
ROUNDING: Final = 1e-9  # relative error of a quantile at `max_tokens`


class Quality(Struct, frozen=True):
    """Prediction quality over `outcomes` requests.

    `coverage` is the share of lengths within the 0.9 quantile, `tau` Kendall's τ-b between medians
    and lengths: 1 for the same order, 0 for no correlation. `expected_coverage` is that of right
    quantiles: 0.9, and more where some are at `max_tokens`, which no length exceeds.
    """

    outcomes: int
    coverage: float
    tau: float
    expected_coverage: float = NOMINAL_COVERAGE


class RollingQuality:
    """Coverage and τ of the newest `size` outcomes."""

    __slots__ = (
        "_concordance",
        "_covered",
        "_expected",
        "_lengths",
        "_medians",
        "_next",
        "_untied",
        "held",
        "size",
    )

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._medians = np.zeros(size, dtype=np.float32)
        self._lengths = np.zeros(size, dtype=np.float32)
        self._covered = np.zeros(size, dtype=np.bool_)
        self._expected = np.zeros(size)
        self._next = 0
        self._concordance = 0  # concordant minus discordant pairs
        self._untied = [0, 0]  # pairs with different medians, with different lengths

    def add(
        self, median: float, length: float, *, covered: bool, expected: float = NOMINAL_COVERAGE
    ) -> None:
        """Add an outcome, covered with the probability `expected` if the quantile is right.

        A full window drops its oldest.
        """
        place = self._next
        if self.held == self.size:
            self._update_pairs(place, -1)
        else:
            self.held += 1
        self._medians[place], self._lengths[place] = median, length
        self._covered[place], self._expected[place] = covered, expected
        self._update_pairs(place, 1)
        self._next = (place + 1) % self.size

    @property
    def least(self) -> int:
        """The outcomes below which there is no quality."""
        return min(MIN_OUTCOMES, self.size)

    def quality(self) -> Quality | None:
        """The quality; None with fewer than `least` outcomes."""
        if self.held < self.least:
            return None
        scale = float(self._untied[0] * self._untied[1]) ** 0.5
        return Quality(
            outcomes=self.held,
            coverage=float(self._covered[: self.held].mean()),
            tau=self._concordance / scale if scale else 0.0,
            expected_coverage=float(self._expected[: self.held].mean()),
        )

    def _update_pairs(self, place: int, sign: int) -> None:
        """Add (sign 1) or remove (sign -1) the pairs of one outcome; with itself it is tied."""
        median = np.sign(self._medians[: self.held] - self._medians[place])
        length = np.sign(self._lengths[: self.held] - self._lengths[place])
        self._concordance += sign * int(median @ length)
        self._untied[0] += sign * int(np.count_nonzero(median))
        self._untied[1] += sign * int(np.count_nonzero(length))


class DriftMonitor:
    """Coverage and τ of one version's predictions, over all apps and per app."""

    def __init__(self, window: int = 500) -> None:
        self._version: UUID | None = None
        self._restart(window)

    @property
    def version(self) -> UUID | None:
        """The version whose predictions are measured."""
        return self._version

    @property
    def outcomes(self) -> int:
        """The outcomes of this version in the window."""
        return self._all.held

    @property
    def least_outcomes(self) -> int:
        """The outcomes from which on the quality is known."""
        return self._all.least

    def use_window(self, window: int) -> None:
        """Set the window in outcomes; another size restarts the measurement."""
        if window != self._all.size:
            self._restart(window)

    def observe(self, record: Record) -> None:
        """Add a finished request whose length a version predicted."""
        if record.predictor_id is None or (
            record.censored and record.generation_tokens < record.max_tokens
        ):
            return
        if record.predictor_id != self._version:
            self._version = record.predictor_id
            self._restart(self._all.size)
        median, length = record.quantiles[MEDIAN], float(record.generation_tokens)
        p90 = record.quantiles[P90] * (1 + ROUNDING)
        covered, expected = length <= p90, 1.0 if p90 >= record.max_tokens else NOMINAL_COVERAGE
        app = self._apps.pop(record.app_id, None) or RollingQuality(self._all.size)
        for rolling in (self._all, app):
            rolling.add(median, length, covered=covered, expected=expected)
        self._apps[record.app_id] = app
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)

    def quality(self, app: UUID | None = None) -> Quality | None:
        """The quality for one app, or for all; None with too few outcomes."""
        rolling = self._all if app is None else self._apps.get(app)
        return None if rolling is None else rolling.quality()

    def trustworthy(self, tau_floor: float) -> bool:
        """Whether τ is at least `tau_floor`; True until there are enough outcomes."""
        quality = self.quality()
        return quality is None or quality.tau >= tau_floor

    def check(self) -> None:
        """Raise AssertionError if a memory bound is violated."""
        assert len(self._apps) <= MAX_APPS
        assert all(rolling.held <= rolling.size for rolling in (self._all, *self._apps.values()))

    def _restart(self, window: int) -> None:
        self._all = RollingQuality(window)
        self._apps: OrderedDict[UUID, RollingQuality] = OrderedDict()
