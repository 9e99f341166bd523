"""How long answers were lately: for each app, user and tenant, and over all.

Kept in the gateway's memory so that no request waits for a query. A length that was cut off
counts as a lower bound (`gateway.prediction.censoring`). A younger level leans on the one above
it: n lengths weigh n / (n + SHRINKAGE), the rest is the parent's, and a prior stands at the top.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.prediction.ring_buffer import RingBuffer
from gateway.quantiles import LEVELS

SHRINKAGE = 4.0
APP_WINDOW = 256
USER_WINDOW = 32
GLOBAL_WINDOW = 512
MAX_APPS = 10_000
MAX_USERS = 20_000
MAX_RECENCY_S = 30 * 86_400.0  # recency of what never happened, and its cap

Key = TypeVar("Key", bound=Hashable)


class LengthOutcome(Struct, frozen=True):
    """A finished request. `ended_at` is a Unix time in seconds; `tokens` the generation length."""

    tenant: UUID
    app: UUID
    end_user: str | None
    tokens: int
    censored: bool
    ended_at: float


class LengthStatistics(Struct, frozen=True):
    """Log generation lengths as one level sees them.

    `quantiles` stand at `LEVELS`; `count` is how many lengths of this level were ever seen.
    """

    mean: float
    spread: float
    quantiles: tuple[float, ...]
    count: int
    recency_s: float


class RequestHistory(Struct, frozen=True):
    """What is known when a request arrives; `source` names the nearest level that weighs most."""

    app: LengthStatistics
    user: LengthStatistics
    source: str


class RecentLengths:
    """The recent lengths of one level."""

    __slots__ = ("_lengths", "ended_at", "window")

    def __init__(self, size: int) -> None:
        self.window = RingBuffer(size)
        self.ended_at = -math.inf
        self._lengths: tuple[float, float, tuple[float, ...]] | None = None

    def add(self, outcome: LengthOutcome) -> None:
        """Learn one length."""
        self.window.add(math.log(max(outcome.tokens, 1)), censored=outcome.censored)
        self.ended_at = max(self.ended_at, outcome.ended_at)

    def moments(self) -> tuple[float, float, tuple[float, ...]]:
        """Mean, standard deviation and quantiles at `LEVELS` of the log lengths; not when empty."""
        if self.window.stale() or self._lengths is None:
            ordered, weights = kaplan_meier(*self.window.values())
            mean = float(weights @ ordered)
            spread = math.sqrt(max(float(weights @ (ordered - mean) ** 2), 0.0))
            levels = weighted_quantiles(ordered, weights, np.array(LEVELS))
            self._lengths = mean, spread, tuple(levels.tolist())
        return self._lengths

    def over(self, parent: LengthStatistics, now: float) -> LengthStatistics:
        """The lengths of this level, leaning on the parent's while they are few."""
        held = len(self.window)
        own = held / (held + SHRINKAGE)
        mean, spread, levels = self.moments()
        return LengthStatistics(
            mean=own * mean + (1 - own) * parent.mean,
            spread=own * spread + (1 - own) * parent.spread,
            quantiles=tuple(
                own * mine + (1 - own) * theirs
                for mine, theirs in zip(levels, parent.quantiles, strict=True)
            ),
            count=self.window.total,
            recency_s=min(max(now - self.ended_at, 0.0), MAX_RECENCY_S),
        )


class RecentLengthsByKey(Generic[Key]):
    """Habits by key; the one least recently written is forgotten when there are too many."""

    def __init__(self, most: int, window: int) -> None:
        self._most = most
        self._window = window
        self._habits: OrderedDict[Key, RecentLengths] = OrderedDict()

    def __len__(self) -> int:
        return len(self._habits)

    def get(self, key: Key) -> RecentLengths | None:
        """The habit of a key, None where nothing was learned."""
        return self._habits.get(key)

    def add(self, key: Key, outcome: LengthOutcome) -> None:
        """Learn an outcome of a key."""
        habit = self._habits.pop(key, None) or RecentLengths(self._window)
        habit.add(outcome)
        self._habits[key] = habit
        if len(self._habits) > self._most:
            self._habits.popitem(last=False)


def prior_statistics(max_tokens: int) -> LengthStatistics:
    """Log-uniform between one token and `max_tokens`: all that is known without any history."""
    most = math.log(max(max_tokens, 1))
    return LengthStatistics(
        mean=most / 2,
        spread=most / math.sqrt(12),
        quantiles=tuple(level * most for level in LEVELS),
        count=0,
        recency_s=MAX_RECENCY_S,
    )


class LengthHistory:
    """Running statistics of generation lengths, updated by each outcome, bounded in memory."""

    def __init__(self, *, max_apps: int = MAX_APPS, max_users: int = MAX_USERS) -> None:
        self._all = RecentLengthsByKey[None](1, GLOBAL_WINDOW)
        self._tenants = RecentLengthsByKey[UUID](max_apps, APP_WINDOW)
        self._apps = RecentLengthsByKey[UUID](max_apps, APP_WINDOW)
        self._users = RecentLengthsByKey[tuple[UUID, str]](max_users, USER_WINDOW)

    def learn(self, outcome: LengthOutcome) -> None:
        """Update every level. A request cut off before its first token says nothing: skipped."""
        if outcome.censored and outcome.tokens < 1:
            return
        self._all.add(None, outcome)
        self._tenants.add(outcome.tenant, outcome)
        self._apps.add(outcome.app, outcome)
        if outcome.end_user is not None:
            self._users.add((outcome.app, outcome.end_user), outcome)

    def history(
        self, *, tenant: UUID, app: UUID, end_user: str | None, max_tokens: int, now: float
    ) -> RequestHistory:
        """What the levels above and around a request know of its length at Unix time `now`."""
        source, lengths = "prior", prior_statistics(max_tokens)
        for name, habit in (
            ("global", self._all.get(None)),
            ("tenant", self._tenants.get(tenant)),
            ("app", self._apps.get(app)),
        ):
            if habit is not None:
                source = name if len(habit.window) >= SHRINKAGE else source
                lengths = habit.over(lengths, now)
        if self._apps.get(app) is None:
            lengths = _inherited(lengths)
        theirs = self._users.get((app, end_user)) if end_user is not None else None
        user = _inherited(lengths) if theirs is None else theirs.over(lengths, now)
        return RequestHistory(app=lengths, user=user, source=source)

    def check(self) -> None:
        """AssertionError if a bound on memory does not hold."""
        for recent in (self._all, self._tenants, self._apps, self._users):
            assert len(recent) <= recent._most  # noqa: SLF001
            for habit in recent._habits.values():  # noqa: SLF001
                assert len(habit.window) <= habit.window.size


def _inherited(parent: LengthStatistics) -> LengthStatistics:
    return LengthStatistics(parent.mean, parent.spread, parent.quantiles, 0, MAX_RECENCY_S)
