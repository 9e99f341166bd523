"""`/admin/apps/{app_id}/keys` and `/admin/keys/{key_id}`: the API keys of an app."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.admin.fields import MinDeadline, Name, ServiceTiers
from gateway.api.envelope import Listing, NameFilter, listing, to_answer
from gateway.api.openapi import errors
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to create; the name states its purpose. It is valid before `expires_at`, if set.

    Its requests may have one of the `service_tiers`, unset: any, and deadlines from
    `min_deadline_s` seconds on.
    """

    name: Name
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    service_tiers: ServiceTiers | None = None
    min_deadline_s: MinDeadline = 0.0


class KeyChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields to change; omitted and null fields keep their values.

    All three tiers allow any, and a least deadline of 0 allows every one.
    """

    name: Name | None = None
    service_tiers: ServiceTiers | None = None
    min_deadline_s: MinDeadline | None = None


class KeyRotation(Struct, frozen=True, forbid_unknown_fields=True):
    """The name of the new key, and for how long the old one stays valid: at most a year."""

    name: Name
    overlap_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0


class KeyAnswer(Struct, frozen=True, kw_only=True):
    """A key without its secret; `prefix` identifies it.

    `last_used_at` is written about once a minute, null: not yet. `service_tiers` null: any.
    """

    id: UUID
    app_id: UUID
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    service_tiers: list[str] | None
    min_deadline_s: float | None


class NewKeyAnswer(Struct, frozen=True, kw_only=True):
    """A new key. The secret is shown only once."""

    id: UUID
    app_id: UUID
    name: str
    prefix: str
    secret: str
    created_at: datetime
    expires_at: datetime | None
    service_tiers: list[str] | None
    min_deadline_s: float | None


class KeysController(Controller):
    """Creates, lists, shows, changes, rotates and revokes API keys."""

    opt = area(Scope.TENANTS)

    @post("/apps/{app_id:uuid}/keys", summary="Create an API key of an app")
    async def create_key(
        self,
        app_id: FromPath[UUID],
        data: JSONBody[KeyRequest],
        keys: NamedDependency[ApiKeys],
        actor: Actor,
    ) -> NewKeyAnswer:
        """The new key with its secret; 404 if there is no such app."""
        new = await keys.create(
            app_id,
            data.name,
            expires_at=data.expires_at,
            service_tiers=data.service_tiers,
            min_deadline_s=data.min_deadline_s,
            by=actor,
        )
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

    @get("/keys/{key_id:uuid}", summary="Show an API key")
    async def show_key(self, key_id: FromPath[UUID], keys: NamedDependency[ApiKeys]) -> KeyAnswer:
        """One key, revoked ones too; 404 if there is none."""
        return to_answer(KeyAnswer, await keys.show(key_id))

    @patch("/keys/{key_id:uuid}", summary="Change an API key")
    async def change_key(
        self,
        key_id: FromPath[UUID],
        data: JSONBody[KeyChange],
        keys: NamedDependency[ApiKeys],
        actor: Actor,
    ) -> KeyAnswer:
        """The key; 404 if there is none. Every gateway goes by the change at once."""
        changed = await keys.change(
            key_id,
            name=data.name,
            service_tiers=data.service_tiers,
            min_deadline_s=data.min_deadline_s,
            by=actor,
        )
        return to_answer(KeyAnswer, changed)

    @post("/keys/{key_id:uuid}/rotate", summary="Rotate an API key", responses=errors(409))
    async def rotate_key(
        self,
        key_id: FromPath[UUID],
        data: JSONBody[KeyRotation],
        keys: NamedDependency[ApiKeys],
        actor: Actor,
    ) -> NewKeyAnswer:
        """A new key of the same app with its secret; the old key expires after the overlap.

        409 if the old key is revoked or has expired.
        """
        new = await keys.rotate(key_id, data.name, overlap_s=data.overlap_s, by=actor)
        return to_answer(NewKeyAnswer, new.key, secret=new.secret)

    @delete("/keys/{key_id:uuid}", status_code=200, summary="Revoke an API key")
    async def revoke_key(
        self, key_id: FromPath[UUID], keys: NamedDependency[ApiKeys], actor: Actor
    ) -> KeyAnswer:
        """The revoked key, refused at once by every gateway."""
        return to_answer(KeyAnswer, await keys.revoke(key_id, by=actor))
