"""`/admin/scoped-keys`: keys for parts of the admin API, managed with the admin key only."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.api.admin.actor import Actor
from gateway.api.admin.fields import Name
from gateway.api.envelope import Listing, NameFilter, listing, to_answer
from gateway.api.openapi import errors
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope, ScopedKeys


class ScopedKeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to create: `read` for every GET, or an area to read and change."""

    name: Name
    scopes: Annotated[list[Scope], Meta(extra_json_schema={"minItems": 1})]


class ScopedKeyAnswer(Struct, frozen=True, kw_only=True):
    """A key without its secret; `prefix` identifies it."""

    id: UUID
    name: str
    scopes: list[str]
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


class NewScopedKeyAnswer(Struct, frozen=True, kw_only=True):
    """A new key. The secret is shown only once."""

    id: UUID
    name: str
    scopes: list[str]
    secret: str


class ScopedKeysController(Controller):
    """Creates, lists and revokes keys for parts of the admin API."""

    path = "/scoped-keys"

    @post(summary="Create a key for a part of the admin API", responses=errors(409))
    async def create_scoped_key(
        self,
        data: JSONBody[ScopedKeyRequest],
        scoped_keys: NamedDependency[ScopedKeys],
        actor: Actor,
    ) -> NewScopedKeyAnswer:
        """The new key with its secret; 409 if the name is taken."""
        new = await scoped_keys.create(data.name, data.scopes, by=actor)
        return to_answer(NewScopedKeyAnswer, new.key, secret=new.secret)

    @get(summary="List the keys for parts of the admin API")
    async def list_scoped_keys(
        self,
        cursor: NamedDependency[Cursor],
        scoped_keys: NamedDependency[ScopedKeys],
        name: NameFilter = None,
    ) -> Listing[ScopedKeyAnswer]:
        """Keys, including revoked ones, oldest first."""
        return listing(ScopedKeyAnswer, await scoped_keys.list(cursor, name))

    @delete("/{key_id:uuid}", status_code=200, summary="Revoke a key of the admin API")
    async def revoke_scoped_key(
        self, key_id: FromPath[UUID], scoped_keys: NamedDependency[ScopedKeys], actor: Actor
    ) -> ScopedKeyAnswer:
        """The key, refused by every gateway from now on; 404 if there is none."""
        return to_answer(ScopedKeyAnswer, await scoped_keys.revoke(key_id, by=actor))
