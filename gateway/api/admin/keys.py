"""`/admin/apps/{app_id}/keys` and `/admin/keys/{key_id}`: the API keys of an app."""

from datetime import datetime
from typing import Self
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.admin.actor import area
from gateway.api.envelope import Listing
from gateway.tenancy.keys import ApiKeys, NewKey
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope
from models import ApiKey


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make; the name says what it is for."""

    name: str


class KeyAnswer(Struct, frozen=True, kw_only=True):
    """A key, without its secret; `prefix` tells keys apart."""

    id: UUID
    app_id: UUID
    name: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """The key as clients see it."""
        return cls(
            id=key.id,
            app_id=key.app_id,
            name=key.name,
            prefix=key.prefix,
            created_at=key.created_at,
            revoked_at=key.revoked_at,
        )


class NewKeyAnswer(Struct, frozen=True, kw_only=True):
    """A key that was just made. The secret is shown here and never again."""

    id: UUID
    app_id: UUID
    name: str
    prefix: str
    secret: str
    created_at: datetime

    @classmethod
    def of(cls, new: NewKey) -> Self:
        """The new key as its maker sees it."""
        return cls(
            id=new.key.id,
            app_id=new.key.app_id,
            name=new.key.name,
            prefix=new.key.prefix,
            secret=new.secret,
            created_at=new.key.created_at,
        )


class KeysController(Controller):
    """Makes, lists and revokes API keys."""

    opt = area(Scope.TENANTS)

    @post("/apps/{app_id:uuid}/keys", summary="Make an API key of an app")
    async def create_key(
        self, app_id: FromPath[UUID], data: JSONBody[KeyRequest], keys: NamedDependency[ApiKeys]
    ) -> NewKeyAnswer:
        """The new key with its secret; 404 without such an app."""
        return NewKeyAnswer.of(await keys.create(app_id, data.name))

    @get("/apps/{app_id:uuid}/keys", summary="List the API keys of an app")
    async def list_keys(
        self,
        app_id: FromPath[UUID],
        cursor: NamedDependency[Cursor],
        keys: NamedDependency[ApiKeys],
    ) -> Listing[KeyAnswer]:
        """Keys, revoked ones too, oldest first; 404 without such an app."""
        page = await keys.list(app_id, cursor)
        return Listing(data=[KeyAnswer.of(key) for key in page.items], has_more=page.more)

    @delete("/keys/{key_id:uuid}", status_code=200, summary="Revoke an API key")
    async def revoke_key(self, key_id: FromPath[UUID], keys: NamedDependency[ApiKeys]) -> KeyAnswer:
        """The key, revoked: refused here at once, on other gateways within half a minute."""
        return KeyAnswer.of(await keys.revoke(key_id))
