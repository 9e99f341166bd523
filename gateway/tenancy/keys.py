"""API keys: secrets that identify an app."""

from datetime import UTC, datetime
from uuid import UUID

from msgspec import Struct

from gateway.database.errors import Sessions, transaction
from gateway.errors import NotFound
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.naming import checked_name
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.secret import digest, new_secret, prefix
from models import ApiKey, App


class NewKey(Struct, frozen=True):
    """A key with its secret, which cannot be read again."""

    key: ApiKey
    secret: str


class ApiKeys:
    """Creates, lists and revokes the keys of an app."""

    def __init__(self, sessions: Sessions, authenticator: Authenticator) -> None:
        self._sessions = sessions
        self._authenticator = authenticator

    async def create(self, app_id: UUID, name: str) -> NewKey:
        """A new key. NotFound if there is no such app."""
        checked_name(name)
        secret = new_secret()
        key = key_row(app_id, name, secret)
        async with transaction(self._sessions) as session:
            if await session.get(App, app_id) is None:
                raise _no_app(app_id)
            session.add(key)
        return NewKey(key, secret)

    async def list(self, app_id: UUID, cursor: Cursor, name: str | None = None) -> Page[ApiKey]:
        """An app's keys, revoked ones too, oldest first; with `name` those of that name.

        NotFound if there is no such app.
        """
        wanted = [ApiKey.app_id == app_id]
        if name is not None:
            wanted.append(ApiKey.name == name)
        async with transaction(self._sessions) as session:
            if await session.get(App, app_id) is None:
                raise _no_app(app_id)
            return await read_page(session, ApiKey, cursor, *wanted)

    async def revoke(self, key_id: UUID) -> ApiKey:
        """The key, which this gateway refuses from now on. NotFound. Revoking twice is no error."""
        async with transaction(self._sessions) as session:
            key = await session.get(ApiKey, key_id, with_for_update=True)
            if key is None:
                raise NotFound(f"there is no key {key_id}", param="key_id")
            key.revoked_at = key.revoked_at or datetime.now(UTC)
        self._authenticator.revoke(key_id)
        return key


def key_row(app_id: UUID, name: str, secret: str) -> ApiKey:
    """The database row of a key."""
    return ApiKey(app_id=app_id, name=name, prefix=prefix(secret), digest=digest(secret))


def _no_app(app_id: UUID) -> NotFound:
    return NotFound(f"there is no app {app_id}", param="app_id")
