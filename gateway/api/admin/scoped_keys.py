"""`/admin/scoped-keys`: keys for a part of the admin API. The admin key alone may manage them."""

from datetime import datetime
from typing import Self
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.admin.actor import Actor
from gateway.api.envelope import Listing
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import NewScopedKey, Scope, ScopedKeys
from models import ScopedKey


class ScopedKeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make: `read` for every GET, or an area to read and change."""

    name: str
    scopes: list[Scope]


class ScopedKeyAnswer(Struct, frozen=True, kw_only=True):
    """A key, without its secret; `prefix` tells keys apart."""

    id: UUID
    name: str
    scopes: list[str]
    prefix: str
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ScopedKey) -> Self:
        """The key as clients see it."""
        return cls(
            id=key.id,
            name=key.name,
            scopes=key.scopes,
            prefix=key.prefix,
            created_at=key.created_at,
            revoked_at=key.revoked_at,
        )


class NewScopedKeyAnswer(Struct, frozen=True, kw_only=True):
    """A key that was just made. The secret is shown here and never again."""

    id: UUID
    name: str
    scopes: list[str]
    secret: str

    @classmethod
    def of(cls, new: NewScopedKey) -> Self:
        """The new key as its maker sees it."""
        return cls(id=new.key.id, name=new.key.name, scopes=new.key.scopes, secret=new.secret)


class ScopedKeysController(Controller):
    """Makes, lists and revokes keys for a part of the admin API."""

    path = "/scoped-keys"

    @post(summary="Make a key for a part of the admin API")
    async def create_scoped_key(
        self,
        data: JSONBody[ScopedKeyRequest],
        scoped_keys: NamedDependency[ScopedKeys],
        actor: Actor,
    ) -> NewScopedKeyAnswer:
        """The new key with its secret; 409 if the name is taken."""
        return NewScopedKeyAnswer.of(await scoped_keys.create(data.name, data.scopes, by=actor))

    @get(summary="List the keys for parts of the admin API")
    async def list_scoped_keys(
        self, cursor: NamedDependency[Cursor], scoped_keys: NamedDependency[ScopedKeys]
    ) -> Listing[ScopedKeyAnswer]:
        """Keys, revoked ones too, oldest first."""
        page = await scoped_keys.list(cursor)
        return Listing(data=[ScopedKeyAnswer.of(key) for key in page.items], has_more=page.more)

    @delete("/{key_id:uuid}", status_code=200, summary="Revoke a key of the admin API")
    async def revoke_scoped_key(
        self, key_id: FromPath[UUID], scoped_keys: NamedDependency[ScopedKeys], actor: Actor
    ) -> ScopedKeyAnswer:
        """The key, refused by every gateway from now on; 404 if there is none."""
        return ScopedKeyAnswer.of(await scoped_keys.revoke(key_id, by=actor))
