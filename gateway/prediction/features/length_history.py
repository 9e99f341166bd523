"""Statistics of recent generation lengths: per user, app and tenant, and over all requests.

Kept in memory, so that no request waits for a query. A censored length is a lower bound
(`gateway.prediction.censoring`). Each level is shrunk towards its parent, in the order user, app,
tenant, global, prior: n lengths weigh n / (n + SHRINKAGE), the parent the rest.

The lengths of an app and of its users are those of answers of the request's form. Between the app
and its tenant stands the form that the app has most lengths of, if that is another.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.prediction.messages import FORMS, FREE, Form, stratum
from gateway.prediction.ring_buffer import RingBuffer
from gateway.quantiles import LEVELS

SHRINKAGE = 4.0
APP_WINDOW = 256
USER_WINDOW = 32
GLOBAL_WINDOW = 512
MAX_APPS = 10_000
MAX_USERS = 20_000
MAX_RECENCY_S = 30 * 86_400.0  # also the recency of a level without lengths

Key = TypeVar("Key", bound=Hashable)


class LengthOutcome(Struct, frozen=True):
    """A finished request. `ended_at` is a Unix time in seconds; `tokens` the generation length."""

    tenant: UUID
    app: UUID
    end_user: str | None
    tokens: int
    censored: bool
    ended_at: float
    form: Form = FREE

    @property
    def stratum(self) -> UUID:
        """What it is learned under."""
        return stratum(self.app, self.form)


class LengthStatistics(Struct, frozen=True):
    """Statistics of the log generation lengths of one level.

    `quantiles` are at `LEVELS`; `count` is the number of lengths ever observed; `recency_s` the
    time since the last.
    """

    mean: float
    spread: float
    quantiles: tuple[float, ...]
    count: int
    recency_s: float


class RequestHistory(Struct, frozen=True):
    """Length statistics on arrival; `source` is the most specific level with weight ≥ 1/2."""

    app: LengthStatistics
    user: LengthStatistics
    source: str


class RecentLengths:
    """The newest log lengths of one level."""

    __slots__ = ("_statistics", "ended_at", "lengths")

    def __init__(self, size: int) -> None:
        self.lengths = RingBuffer(size)
        self.ended_at = -math.inf
        self._statistics: tuple[float, float, tuple[float, ...]] | None = None

    def add(self, outcome: LengthOutcome) -> None:
        """Add a length."""
        self.lengths.add(math.log(max(outcome.tokens, 1)), censored=outcome.censored)
        self.ended_at = max(self.ended_at, outcome.ended_at)

    def statistics(self) -> tuple[float, float, tuple[float, ...]]:
        """Mean, standard deviation and quantiles at `LEVELS` of n ≥ 1 log lengths."""
        if self.lengths.needs_refresh() or self._statistics is None:
            ordered, weights = kaplan_meier(*self.lengths.values())
            mean = float(weights @ ordered)
            spread = math.sqrt(max(float(weights @ (ordered - mean) ** 2), 0.0))
            levels = weighted_quantiles(ordered, weights, np.array(LEVELS))
            self._statistics = mean, spread, tuple(levels.tolist())
        return self._statistics

    def shrunk_towards(self, parent: LengthStatistics, now: float) -> LengthStatistics:
        """The statistics of this level, shrunk towards the parent's."""
        size = len(self.lengths)
        own_weight = size / (size + SHRINKAGE)
        mean, spread, levels = self.statistics()
        return LengthStatistics(
            mean=own_weight * mean + (1 - own_weight) * parent.mean,
            spread=own_weight * spread + (1 - own_weight) * parent.spread,
            quantiles=tuple(
                own_weight * own_level + (1 - own_weight) * user_recent
                for own_level, user_recent in zip(levels, parent.quantiles, strict=True)
            ),
            count=self.lengths.total,
            recency_s=min(max(now - self.ended_at, 0.0), MAX_RECENCY_S),
        )


class RecentLengthsByKey(Generic[Key]):
    """Recent lengths by key; beyond `max_keys` the least recently updated key is dropped."""

    def __init__(self, max_keys: int, lengths: int) -> None:
        self._max_keys = max_keys
        self._size = lengths
        self._by_key: OrderedDict[Key, RecentLengths] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Key) -> RecentLengths | None:
        """The lengths of a key; None if there are none."""
        return self._by_key.get(key)

    def add(self, key: Key, outcome: LengthOutcome) -> None:
        """Add the length of an outcome to its key."""
        recent = self._by_key.pop(key, None) or RecentLengths(self._size)
        recent.add(outcome)
        self._by_key[key] = recent
        if len(self._by_key) > self._max_keys:
            self._by_key.popitem(last=False)


def prior_statistics(max_tokens: int) -> LengthStatistics:
    """The prior without any history: log-uniform between one token and `max_tokens`."""
    max_keys = math.log(max(max_tokens, 1))
    return LengthStatistics(
        mean=max_keys / 2,
        spread=max_keys / math.sqrt(12),
        quantiles=tuple(level * max_keys for level in LEVELS),
        count=0,
        recency_s=MAX_RECENCY_S,
    )


class LengthHistory:
    """Length statistics of all levels, updated by each outcome, in bounded memory."""

    def __init__(self, *, max_apps: int = MAX_APPS, max_users: int = MAX_USERS) -> None:
        self._all = RecentLengthsByKey[None](1, GLOBAL_WINDOW)
        self._tenants = RecentLengthsByKey[UUID](max_apps, APP_WINDOW)
        self._apps = RecentLengthsByKey[UUID](max_apps, APP_WINDOW)
        self._users = RecentLengthsByKey[tuple[UUID, str]](max_users, USER_WINDOW)

    def learn(self, outcome: LengthOutcome) -> None:
        """Update every level; skips a request that was cut off before its first token."""
        if outcome.censored and outcome.tokens < 1:
            return
        self._all.add(None, outcome)
        self._tenants.add(outcome.tenant, outcome)
        self._apps.add(outcome.stratum, outcome)
        if outcome.end_user is not None:
            self._users.add((outcome.stratum, outcome.end_user), outcome)

    def history(
        self,
        *,
        tenant: UUID,
        app: UUID,
        end_user: str | None,
        max_tokens: int,
        now: float,
        form: Form = FREE,
    ) -> RequestHistory:
        """The statistics for a request of this app and user at Unix time `now`."""
        source, nearest = "prior", prior_statistics(max_tokens)
        key = stratum(app, form)
        own = self._apps.get(key)
        for name, recent in (
            ("global", self._all.get(None)),
            ("tenant", self._tenants.get(tenant)),
            ("app", self._other_form(app, form, own)),
            ("app", own),
        ):
            if recent is not None:
                source = name if len(recent.lengths) >= SHRINKAGE else source
                nearest = recent.shrunk_towards(nearest, now)
        if own is None:
            nearest = _inherited(nearest)
        user_recent = self._users.get((key, end_user)) if end_user is not None else None
        user = (
            _inherited(nearest) if user_recent is None else user_recent.shrunk_towards(nearest, now)
        )
        return RequestHistory(app=nearest, user=user, source=source)

    def _other_form(self, app: UUID, form: Form, own: RecentLengths | None) -> RecentLengths | None:
        """The form that an app has more lengths of than of this one; None if there is none."""
        others = (self._apps.get(stratum(app, each)) for each in FORMS if each != form)
        most, count = None, 0 if own is None else own.lengths.total
        for other in others:
            if other is not None and other.lengths.total > count:
                most, count = other, other.lengths.total
        return most

    def check(self) -> None:
        """Raise AssertionError if a memory bound is violated."""
        for level in (self._all, self._tenants, self._apps, self._users):
            assert len(level) <= level._max_keys  # noqa: SLF001
            for recent in level._by_key.values():  # noqa: SLF001
                assert len(recent.lengths) <= recent.lengths.size


def _inherited(parent: LengthStatistics) -> LengthStatistics:
    return LengthStatistics(parent.mean, parent.spread, parent.quantiles, 0, MAX_RECENCY_S)
