"""API keys: secrets that identify an app."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, now_of, transaction
from gateway.database.notify import LIMITS, React, notify, unchanged
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.history.audit import note
from gateway.tenancy.apps import present_app
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.changes import announce
from gateway.tenancy.naming import checked_deadline, checked_name, checked_tiers
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.secret import digest, new_secret, prefix
from models import ApiKey, StoredLimit

SECOND: Final = timedelta(seconds=1)


class NewKey(Struct, frozen=True):
    """A key with its secret, which cannot be read again."""

    key: ApiKey
    secret: str


class ApiKeys:
    """Creates, lists, rotates and revokes the keys of an app."""

    def __init__(
        self,
        sessions: Sessions,
        authenticator: Authenticator,
        limits_changed: React = unchanged,
    ) -> None:
        """`limits_changed` is called once a key with limits has a successor."""
        self._sessions = sessions
        self._authenticator = authenticator
        self._limits_changed = limits_changed

    async def create(
        self,
        app_id: UUID,
        name: str,
        *,
        expires_at: datetime | None = None,
        service_tiers: Sequence[str] | None = None,
        min_deadline_s: float = 0.0,
        by: str,
    ) -> NewKey:
        """A new key, valid before `expires_at`. NotFound if there is no such app.

        Its requests may have one of the tiers, None: any, and deadlines from `min_deadline_s` on.
        InvalidRequest if it would have expired, or for an unknown tier.
        """
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise InvalidRequest("expires_at is past", param="expires_at")
        secret = new_secret()
        key = key_row(app_id, checked_name(name), secret)
        key.expires_at = expires_at
        key.service_tiers = None if service_tiers is None else checked_tiers(service_tiers)
        key.min_deadline_s = checked_deadline(min_deadline_s)
        async with transaction(self._sessions) as session:
            await present_app(session, app_id)
            session.add(key)
            await note_created(session, key, by)
        return NewKey(key, secret)

    async def list(self, app_id: UUID, cursor: Cursor, name: str | None = None) -> Page[ApiKey]:
        """An app's keys, revoked ones too, oldest first; with `name` those of that name.

        NotFound if there is no such app.
        """
        wanted = [ApiKey.app_id == app_id]
        if name is not None:
            wanted.append(ApiKey.name == name)
        async with transaction(self._sessions) as session:
            await present_app(session, app_id)
            return await read_page(session, ApiKey, cursor, *wanted)

    async def show(self, key_id: UUID) -> ApiKey:
        """One key, also of what was deleted. NotFound."""
        async with transaction(self._sessions) as session:
            key = await session.get(ApiKey, key_id)
        if key is None:
            raise _no_key(key_id)
        return key

    async def change(
        self,
        key_id: UUID,
        *,
        name: str | None = None,
        service_tiers: Sequence[str] | None = None,
        min_deadline_s: float | None = None,
        by: str,
    ) -> ApiKey:
        """Change the given fields, all or none: all tiers are as none, and so is a deadline of 0.

        NotFound, InvalidRequest. Every gateway goes by it at once.
        """
        given: dict[str, Any] = {}
        if name is not None:
            given["name"] = checked_name(name)
        if service_tiers is not None:
            given["service_tiers"] = checked_tiers(service_tiers)
        if min_deadline_s is not None:
            given["min_deadline_s"] = checked_deadline(min_deadline_s)
        if not given:
            raise InvalidRequest(
                "nothing to change; accepted are name, service_tiers and min_deadline_s"
            )
        async with transaction(self._sessions) as session:
            key = await session.get(ApiKey, key_id, with_for_update=True)
            if key is None:
                raise _no_key(key_id)
            before = {field: getattr(key, field) for field in given}
            for field, value in given.items():
                setattr(key, field, value)
            if given != before:
                note(session, by, "key.changed", key_id, before=before, after=given)
                await announce(session)
        self._authenticator.forget(key_id)
        return key

    async def rotate(self, key_id: UUID, name: str, *, overlap_s: float, by: str) -> NewKey:
        """A new key of the same app, with the rules and limits of the old one, which expires after
        the overlap, or earlier as it was.

        NotFound; Conflict if the old key is revoked or has expired. InvalidRequest if the new name
        is the old one: both keys exist for a while.
        """
        secret = new_secret()
        async with transaction(self._sessions) as session:
            old = await session.get(ApiKey, key_id, with_for_update=True)
            if old is None:
                raise _no_key(key_id)
            if checked_name(name) == old.name:
                raise InvalidRequest("name is the old key's; choose another", param="name")
            now = await now_of(session)
            if old.revoked_at is not None or (old.expires_at or now + SECOND) <= now:
                raise Conflict(f"the key {old.name!r} is revoked or has expired; create another")
            until = now + timedelta(seconds=overlap_s)
            before = {"expires_at": _utc(old.expires_at)}
            old.expires_at = min(until, old.expires_at or until)
            key = key_row(old.app_id, name, secret)
            key.service_tiers, key.min_deadline_s = old.service_tiers, old.min_deadline_s
            session.add(key)
            await session.flush()
            limits = await _copy_limits(session, key_id, key.id, by)
            after = {
                "expires_at": _utc(old.expires_at),
                "new_key": str(key.id),
                "name": key.name,
                "limits": limits,
            }
            note(session, by, "key.rotated", key_id, before=before, after=after)
            await announce(session)
        self._authenticator.forget(key_id)
        if limits:
            await self._limits_changed()
        return NewKey(key, secret)

    async def revoke(self, key_id: UUID, *, by: str) -> ApiKey:
        """The key, which this gateway refuses from now on. NotFound. Revoking twice is no error."""
        async with transaction(self._sessions) as session:
            key = await session.get(ApiKey, key_id, with_for_update=True)
            if key is None:
                raise _no_key(key_id)
            if key.revoked_at is None:
                key.revoked_at = datetime.now(UTC)
                note(session, by, "key.revoked", key_id, before={"name": key.name})
            await announce(session)
        self._authenticator.revoke(key_id)
        return key


def key_row(app_id: UUID, name: str, secret: str) -> ApiKey:
    """The database row of a key."""
    return ApiKey(app_id=app_id, name=name, prefix=prefix(secret), digest=digest(secret))


async def _copy_limits(session: AsyncSession, old: UUID, new: UUID, by: str) -> int:
    """Give a new key the limits of an old one; returns how many. All gateways are notified."""
    found = list(await session.scalars(select(StoredLimit).where(StoredLimit.api_key_id == old)))
    for limit in found:
        session.add(
            StoredLimit(
                level=limit.level,
                api_key_id=new,
                quantity=limit.quantity,
                period=limit.period,
                amount=limit.amount,
                effect=limit.effect,
                changed_by=by,
            )
        )
    if found:
        await notify(session, LIMITS)
    return len(found)


async def note_created(session: AsyncSession, key: ApiKey, by: str) -> None:
    """Note a new key in the audit trail, without its secret."""
    await session.flush()
    after = {
        "app": str(key.app_id),
        "name": key.name,
        "expires_at": _utc(key.expires_at),
        "service_tiers": key.service_tiers,
        "min_deadline_s": key.min_deadline_s,
    }
    note(session, by, "key.created", key.id, after=after)


def _utc(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat() if at else None


def _no_key(key_id: UUID) -> NotFound:
    return NotFound(f"there is no key {key_id}", param="key_id")
