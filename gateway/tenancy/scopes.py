"""Scoped keys: keys of the admin API that may only read, or only change some areas."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select

from gateway.database.errors import LOST_MESSAGE, Sessions, transaction
from gateway.errors import DatabaseLost, Forbidden, InvalidRequest, NotFound, Unauthenticated
from gateway.history.audit import note
from gateway.tenancy.admin_key import AdminKey
from gateway.tenancy.authentication import UNKNOWN_KEY_WAIT_S
from gateway.tenancy.naming import checked_name
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.secret import digest, new_secret, prefix
from models import ScopedKey

ADMIN: Final = "admin"  # the admin key's name in the audit log
MAX_LOOK_UPS: Final = 4  # at a time: few, so that guessed keys leave the pool to others


class Scope(StrEnum):
    """A permission in the admin API: to read everything, or to read and change one area."""

    READ = "read"
    TENANTS = "tenants"  # tenants, apps, their keys, opting out, erasing samples
    PREDICTORS = "predictors"  # training, versions, schedule, imported logs
    ENGINE = "engine"  # pausing, draining, the scheduling policy


class NewScopedKey(Struct, frozen=True):
    """A key with its secret, which cannot be read again."""

    key: ScopedKey
    secret: str


class ScopedKeys:
    """Creates, lists, revokes and finds scoped keys.

    A look-up is given up after `key_lookup_s` seconds.
    """

    def __init__(self, sessions: Sessions, *, key_lookup_s: float = UNKNOWN_KEY_WAIT_S) -> None:
        self._sessions = sessions
        self._key_lookup_s = key_lookup_s
        self._look_ups = asyncio.Semaphore(MAX_LOOK_UPS)

    async def create(self, name: str, scopes: Sequence[Scope], *, by: str) -> NewScopedKey:
        """A new key. InvalidRequest without a scope; Conflict if the name is taken."""
        if not scopes or name == ADMIN:
            raise InvalidRequest(
                "a key needs at least one scope, and another name than 'admin'",
                param="scopes" if not scopes else "name",
            )
        secret, named = new_secret(), sorted({str(scope) for scope in scopes})
        key = ScopedKey(
            name=checked_name(name), scopes=named, prefix=prefix(secret), digest=digest(secret)
        )
        taken = f"a key named {name!r} exists already"
        async with transaction(self._sessions, conflict=taken) as session:
            session.add(key)
            note(session, by, "scoped_key.made", name, after={"scopes": named})
        return NewScopedKey(key, secret)

    async def list(self, cursor: Cursor, name: str | None = None) -> Page[ScopedKey]:
        """Keys, revoked ones too, oldest first; with `name` the one of that name."""
        wanted = [] if name is None else [ScopedKey.name == name]
        async with transaction(self._sessions) as session:
            return await read_page(session, ScopedKey, cursor, *wanted)

    async def revoke(self, key_id: UUID, *, by: str) -> ScopedKey:
        """The key, which every gateway now refuses. NotFound. Revoking twice is no error."""
        async with transaction(self._sessions) as session:
            key = await session.get(ScopedKey, key_id, with_for_update=True)
            if key is None:
                raise NotFound(f"there is no scoped key {key_id}", param="key_id")
            if key.revoked_at is None:
                key.revoked_at = datetime.now(UTC)
                note(session, by, "scoped_key.revoked", key.name)
        return key

    async def find(self, secret: str) -> ScopedKey | None:
        """The key of this secret, if it is valid. DatabaseLost."""
        statement = select(ScopedKey).where(
            ScopedKey.digest == digest(secret), ScopedKey.revoked_at.is_(None)
        )
        try:
            async with (
                asyncio.timeout(self._key_lookup_s),
                self._look_ups,
                transaction(self._sessions) as session,
            ):
                return await session.scalar(statement)
        except TimeoutError as error:
            raise DatabaseLost(LOST_MESSAGE) from error


class Grant(Struct, frozen=True):
    """What a key of the admin API may do; `scopes` is None for the admin key: everything."""

    name: str
    scopes: frozenset[Scope] | None

    def allows(self, area: Scope | None, *, reads: bool) -> bool:
        """Whether it may do an operation of this area. One without needs the admin key itself."""
        if self.scopes is None:
            return True
        return area is not None and not self.scopes.isdisjoint(_accepted(area, reads=reads))

    def check(self, area: Scope | None, *, reads: bool) -> None:
        """Forbidden unless it may do an operation of this area."""
        if not self.allows(area, reads=reads):
            accepted = set[Scope]() if area is None else _accepted(area, reads=reads)
            needed = " or ".join(sorted(accepted)) or "the admin key itself"
            raise Forbidden(f"the key {self.name!r} may not do this; needed is {needed}")


def _accepted(area: Scope, *, reads: bool) -> set[Scope]:
    return {area, Scope.READ} if reads else {area}


class AdminAccess:
    """Authorises calls of the admin API."""

    def __init__(self, admin_key: AdminKey, keys: ScopedKeys) -> None:
        self._admin_key = admin_key
        self._keys = keys

    async def find(self, secret: str) -> Grant:
        """What the key with this secret may do. Unauthenticated for an unknown or revoked key."""
        if self.is_admin(secret):
            return Grant(ADMIN, None)
        key = await self._keys.find(secret)
        if key is None:
            raise Unauthenticated("the admin key is wrong")
        return Grant(key.name, frozenset(Scope(scope) for scope in key.scopes))

    def is_admin(self, secret: str) -> bool:
        """Whether this is the admin key."""
        return self._admin_key.matches(secret)

    async def admit(self, secret: str, area: Scope | None, *, reads: bool) -> str:
        """The name of the key with this secret, for the audit log.

        Unauthenticated for an unknown or revoked key; Forbidden for a key without the scope.
        """
        grant = await self.find(secret)
        grant.check(area, reads=reads)
        return grant.name
