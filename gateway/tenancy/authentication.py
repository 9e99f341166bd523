"""Finds the caller of an API key, mostly from a cache."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct

from gateway.database.errors import LOST_MESSAGE, Sessions
from gateway.errors import DatabaseLost, Unauthenticated
from gateway.tenancy.caller import Caller
from gateway.tenancy.lookup import CallerLookup
from gateway.tenancy.secret import digest

__all__ = ["Authenticator", "Caller"]

log = structlog.get_logger(__name__)

CACHE_S: Final = 30.0  # after which a key is looked up again, though no change is known of
REFUSAL_CACHE_S: Final = 5.0  # an unknown key is refused this long without a query
DATABASE_RETRY_S: Final = 2.0  # pause after a lost database before cached keys cause queries
KNOWN_KEY_WAIT_S: Final = 0.5  # a cached key that expired is accepted after this without an answer
UNKNOWN_KEY_WAIT_S: Final = 1.5
MAX_CACHED_KEYS: Final = 10_000


def _now() -> datetime:
    return datetime.now(UTC)


class _CachedCaller(Struct):
    caller: Caller
    expires_at_s: float


class Authenticator:
    """Finds callers by their API keys, and caches them.

    Cached keys are accepted while the database is away or hangs, however long that lasts; keys
    that are not in the cache get DatabaseLost after `key_lookup_s` seconds. A key is refused from
    its expiry on; a key revoked through this gateway at once, and a key revoked elsewhere once
    `follow_changes` is called: at once too, unless the database is away. Without that, it is
    refused within `cache_s`.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        key_lookup_s: float = UNKNOWN_KEY_WAIT_S,
        cache_s: float = CACHE_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _now,
        used: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        """`clock` times the cache, `now` the expiry of keys; `used` gets each accepted key's id."""
        self._lookup = CallerLookup(sessions, self._remember)
        self._key_lookup_s = key_lookup_s
        self._cache_s = cache_s
        self._clock = clock
        self._now = now
        self._used = used
        self._cached: OrderedDict[bytes, _CachedCaller] = OrderedDict()
        self._refused_until_s: OrderedDict[bytes, float] = OrderedDict()
        self._revoked: set[UUID] = set()
        self._database_retry_at_s = float("-inf")

    async def authenticate(self, secret: str) -> Caller:
        """The caller of a valid key. Unauthenticated; DatabaseLost for a key not in the cache."""
        caller = await self._find(digest(secret))
        self._used(caller.api_key_id)
        return caller

    async def _find(self, key: bytes) -> Caller:
        now = self._clock()
        cached = self._cached.get(key)
        if cached is not None and self._expired(cached.caller):
            del self._cached[key]
            raise _refusal()
        if cached is not None and (now < cached.expires_at_s or now < self._database_retry_at_s):
            self._cached.move_to_end(key)
            return cached.caller
        if self._refused_until_s.get(key, now) > now:
            raise _refusal()
        return await self._look_up(key, cached)

    def revoke(self, api_key_id: UUID) -> None:
        """Refuse this key from now on. Call it after the revocation is committed."""
        self._revoked.add(api_key_id)
        self.forget(api_key_id)

    async def follow_changes(self) -> None:
        """Refuse the cached keys that were revoked or whose owners were deleted, and look the
        others up again when they are used next. DatabaseLost.
        """
        self._lookup.changed()
        now = self._clock()
        for cached in self._cached.values():
            cached.expires_at_s = min(cached.expires_at_s, now)
        known = [cached.caller.api_key_id for cached in self._cached.values()]
        for api_key_id in await self._lookup.find_revoked(known):
            self.revoke(api_key_id)

    def forget(self, api_key_id: UUID) -> None:
        """Look this key up again when it is used next. Call it after a change is committed."""
        for key in [
            k for k, cached in self._cached.items() if cached.caller.api_key_id == api_key_id
        ]:
            del self._cached[key]

    def _expired(self, caller: Caller) -> bool:
        return caller.expires_at is not None and caller.expires_at <= self._now()

    def check(self) -> None:
        """Assert that the caches are bounded and consistent."""
        self._lookup.check()
        assert len(self._cached) <= MAX_CACHED_KEYS
        assert len(self._refused_until_s) <= MAX_CACHED_KEYS
        assert not self._cached.keys() & self._refused_until_s.keys()
        assert not {cached.caller.api_key_id for cached in self._cached.values()} & self._revoked

    async def _look_up(self, key: bytes, cached: _CachedCaller | None) -> Caller:
        wait_s = self._key_lookup_s if cached is None else KNOWN_KEY_WAIT_S
        try:
            async with asyncio.timeout(wait_s):
                caller = await self._lookup.find(key, first=cached is not None)
        except (DatabaseLost, TimeoutError) as error:
            if cached is None or cached.caller.api_key_id in self._revoked:
                raise DatabaseLost(LOST_MESSAGE) from error
            self._pause_queries()
            return cached.caller
        # A look-up that raced a revocation can find the key still valid.
        if caller is None or caller.api_key_id in self._revoked:
            raise _refusal()
        return caller

    def _pause_queries(self) -> None:
        """Accept cached keys without a query for a while."""
        now = self._clock()
        if now >= self._database_retry_at_s:
            log.warning("api_keys_served_from_memory", retry_s=DATABASE_RETRY_S)
        self._database_retry_at_s = now + DATABASE_RETRY_S

    def _remember(self, key: bytes, caller: Caller | None) -> None:
        """Cache the answer of a look-up."""
        if caller is None or caller.api_key_id in self._revoked:
            self._cached.pop(key, None)
            self._refused_until_s.pop(key, None)
            self._refused_until_s[key] = self._clock() + REFUSAL_CACHE_S
            _trim(self._refused_until_s)
            return
        self._refused_until_s.pop(key, None)
        self._cached[key] = _CachedCaller(caller, self._clock() + self._cache_s)
        self._cached.move_to_end(key)
        _trim(self._cached)


def _refusal() -> Unauthenticated:
    return Unauthenticated("the API key is unknown or revoked, or has expired")


def _trim(memory: OrderedDict[bytes, _CachedCaller] | OrderedDict[bytes, float]) -> None:
    while len(memory) > MAX_CACHED_KEYS:
        memory.popitem(last=False)
