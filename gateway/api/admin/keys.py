"""`/admin/apps/{app_id}/keys` and `/admin/keys/{key_id}`: the API keys of an app."""

from datetime import datetime
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.admin.actor import area
from gateway.api.admin.fields import Name
from gateway.api.envelope import Listing, NameFilter, listing, to_answer
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to create; the name states its purpose."""

    name: Name


class KeyAnswer(Struct, frozen=True, kw_only=True):
    """A key without its secret; `prefix` identifies it."""

    id: UUID
    app_id: UUID
    name: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


class NewKeyAnswer(Struct, frozen=True, kw_only=True):
    """A new key. The secret is shown only once."""

    id: UUID
    app_id: UUID
    name: str
    prefix: str
    secret: str
    created_at: datetime


class KeysController(Controller):
    """Creates, lists and revokes API keys."""

    opt = area(Scope.TENANTS)

    @post("/apps/{app_id:uuid}/keys", summary="Create an API key of an app")
    async def create_key(
        self, app_id: FromPath[UUID], data: JSONBody[KeyRequest], keys: NamedDependency[ApiKeys]
    ) -> NewKeyAnswer:
        """The new key with its secret; 404 if there is no such app."""
        new = await keys.create(app_id, data.name)
        return to_answer(NewKeyAnswer, new.key, secret=new.secret)

    @get("/apps/{app_id:uuid}/keys", summary="List the API keys of an app")
    async def list_keys(
        self,
        app_id: FromPath[UUID],
        cursor: NamedDependency[Cursor],
        keys: NamedDependency[ApiKeys],
        name: NameFilter = None,
    ) -> Listing[KeyAnswer]:
        """Keys, including revoked ones, oldest first; 404 if there is no such app."""
        return listing(KeyAnswer, await keys.list(app_id, cursor, name))

    @delete("/keys/{key_id:uuid}", status_code=200, summary="Revoke an API key")
    async def revoke_key(self, key_id: FromPath[UUID], keys: NamedDependency[ApiKeys]) -> KeyAnswer:
        """The revoked key: refused here at once, by other gateways within half a minute."""
        return to_answer(KeyAnswer, await keys.revoke(key_id))
