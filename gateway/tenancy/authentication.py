"""Turning an API key into the caller it speaks for."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct

from gateway.database.errors import Sessions
from gateway.errors import DatabaseLost, Unauthenticated
from gateway.tenancy.caller import Caller
from gateway.tenancy.lookup import CallerLookup
from gateway.tenancy.secret import digest

__all__ = ["Authenticator", "Caller"]

log = structlog.get_logger(__name__)

FRESH_S: Final = 30.0  # a key revoked on another node may be served so long
UNKNOWN_S: Final = 5.0  # an unknown key is refused so long without a query
LOST_S: Final = 2.0  # after a lost database, so long no query is tried for a known key
CAPACITY: Final = 10_000


class _Known(Struct):
    caller: Caller
    until: float


class Authenticator:
    """Knows callers by their keys, mostly from memory.

    Keys it has seen are served while the database is away, however long. A key revoked through
    this node is refused at once, one revoked elsewhere within `FRESH_S`.
    """

    def __init__(self, sessions: Sessions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = CallerLookup(sessions)
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._revoked: set[UUID] = set()
        self._lost_until = float("-inf")

    async def authenticate(self, secret: str) -> Caller:
        """The caller of a valid key. Unauthenticated, or DatabaseLost for a key not seen before."""
        key = digest(secret)
        now = self._clock()
        known = self._known.get(key)
        if known is not None and (now < known.until or now < self._lost_until):
            self._known.move_to_end(key)
            return known.caller
        if self._unknown.get(key, now) > now:
            raise _refusal()
        return await self._ask(key, known)

    def revoke(self, api_key_id: UUID) -> None:
        """Refuse this key from now on. Call it after the revocation is committed."""
        self._revoked.add(api_key_id)
        for key in [k for k, known in self._known.items() if known.caller.api_key_id == api_key_id]:
            del self._known[key]

    def check(self) -> None:
        """Fail if the memory outgrew its bound or contradicts itself."""
        assert len(self._known) <= CAPACITY
        assert len(self._unknown) <= CAPACITY
        assert not self._known.keys() & self._unknown.keys()
        assert not {known.caller.api_key_id for known in self._known.values()} & self._revoked

    async def _ask(self, key: bytes, known: _Known | None) -> Caller:
        try:
            caller = await self._lookup.find(key)
        except DatabaseLost:
            if known is None or known.caller.api_key_id in self._revoked:
                raise
            self._lost_until = self._clock() + LOST_S
            log.warning("api_key_served_from_memory", api_key=str(known.caller.api_key_id))
            return known.caller
        # A look-up that overtook a revocation finds the key still valid.
        if caller is None or caller.api_key_id in self._revoked:
            self._known.pop(key, None)
            self._unknown.pop(key, None)
            self._unknown[key] = self._clock() + UNKNOWN_S
            _trim(self._unknown)
            raise _refusal()
        self._unknown.pop(key, None)
        self._known[key] = _Known(caller, self._clock() + FRESH_S)
        self._known.move_to_end(key)
        _trim(self._known)
        return caller


def _refusal() -> Unauthenticated:
    return Unauthenticated("the API key is unknown or revoked")


def _trim(memory: OrderedDict[bytes, _Known] | OrderedDict[bytes, float]) -> None:
    while len(memory) > CAPACITY:
        memory.popitem(last=False)
