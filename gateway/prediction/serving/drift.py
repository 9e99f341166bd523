"""Whether predictions still hold: coverage and Kendall's τ over the last outcomes.

Each outcome costs one comparison with each of the window's: τ is kept exactly, not computed anew.
As in `fitting`, judged are lengths that ended by themselves or at their own `max_tokens`.
"""

from collections import OrderedDict
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.history.record import Record
from gateway.quantiles import MEDIAN, P90

MIN_OUTCOMES: Final = 100  # outcomes, before which a window says nothing
MAX_APPS: Final = 2_000


class Quality(Struct, frozen=True):
    """How good the predictions of `outcomes` requests were.

    `coverage` is the share of lengths within the 0.9 quantile, `tau` Kendall's τ-b between the
    medians and the lengths: 1 for the same order, 0 for none.
    """

    outcomes: int
    coverage: float
    tau: float


class RollingQuality:
    """The last `size` pairs of median and length, and how many lengths were covered."""

    __slots__ = ("_agree", "_covered", "_lengths", "_medians", "_next", "_untied", "held", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._medians = np.zeros(size, dtype=np.float32)
        self._lengths = np.zeros(size, dtype=np.float32)
        self._covered = np.zeros(size, dtype=np.bool_)
        self._next = 0
        self._agree = 0  # concordant less discordant pairs
        self._untied = [0, 0]  # pairs of different medians, of different lengths

    def add(self, median: float, length: float, *, covered: bool) -> None:
        """Take in an outcome, and forget the oldest where the window is full."""
        place = self._next
        if self.held == self.size:
            self._count(place, -1)
        else:
            self.held += 1
        self._medians[place], self._lengths[place] = median, length
        self._covered[place] = covered
        self._count(place, 1)
        self._next = (place + 1) % self.size

    def quality(self) -> Quality | None:
        """The measures; None while the window holds too few outcomes."""
        if self.held < min(MIN_OUTCOMES, self.size):
            return None
        scale = float(self._untied[0] * self._untied[1]) ** 0.5
        return Quality(
            outcomes=self.held,
            coverage=float(self._covered[: self.held].mean()),
            tau=self._agree / scale if scale else 0.0,
        )

    def _count(self, place: int, times: int) -> None:
        """Add or take away the pairs of one outcome with the others; with itself it is tied."""
        median = np.sign(self._medians[: self.held] - self._medians[place])
        length = np.sign(self._lengths[: self.held] - self._lengths[place])
        self._agree += times * int(median @ length)
        self._untied[0] += times * int(np.count_nonzero(median))
        self._untied[1] += times * int(np.count_nonzero(length))


class DriftMonitor:
    """Coverage and τ of one version's predictions, over all apps and for each, in memory."""

    def __init__(self, window: int = 500) -> None:
        self._version: UUID | None = None
        self._restart(window)

    @property
    def version(self) -> UUID | None:
        """The version whose predictions the windows hold."""
        return self._version

    def use_window(self, window: int) -> None:
        """Measure over this many outcomes from now on; another number begins anew."""
        if window != self._all.size:
            self._restart(window)

    def observe(self, record: Record) -> None:
        """Take in a finished request whose length the active version predicted."""
        if record.predictor_id is None or (
            record.censored and record.generation_tokens < record.max_tokens
        ):
            return
        if record.predictor_id != self._version:
            self._version = record.predictor_id
            self._restart(self._all.size)
        median, length = record.quantiles[MEDIAN], float(record.generation_tokens)
        covered = length <= record.quantiles[P90]
        app = self._apps.pop(record.app_id, None) or RollingQuality(self._all.size)
        for rolling in (self._all, app):
            rolling.add(median, length, covered=covered)
        self._apps[record.app_id] = app
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)

    def quality(self, app: UUID | None = None) -> Quality | None:
        """Of one app's predictions, or of all; None while there are too few."""
        rolling = self._all if app is None else self._apps.get(app)
        return None if rolling is None else rolling.quality()

    def trustworthy(self, tau_floor: float) -> bool:
        """Whether the order of predictions says anything of the order of lengths; True at first."""
        quality = self.quality()
        return quality is None or quality.tau >= tau_floor

    def check(self) -> None:
        """AssertionError if a bound on memory does not hold."""
        assert len(self._apps) <= MAX_APPS
        assert all(each.held <= each.size for each in (self._all, *self._apps.values()))

    def _restart(self, window: int) -> None:
        self._all = RollingQuality(window)
        self._apps: OrderedDict[UUID, RollingQuality] = OrderedDict()
