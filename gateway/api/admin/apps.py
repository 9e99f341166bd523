"""`/admin/tenants/{tenant_id}/apps` and `/admin/apps`: the applications of tenants."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Struct

from engine.protocol import KvPlacement
from gateway.api.admin.actor import Actor, area
from gateway.api.admin.fields import DeletedAnswer, Instruction, Name, ShareWeight
from gateway.api.envelope import Listing, NameFilter, listing, to_answer
from gateway.api.openapi import errors
from gateway.api.validation import STORABLE
from gateway.deletion.deletions import Deletions
from gateway.tenancy.apps import Apps, TenantApp
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope

OfTenant = Annotated[
    str | None,
    QueryParameter(
        pattern=STORABLE, description="only apps of the tenant of this name; unset: all"
    ),
]


class AppRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """An app to create; `instruction` applies to requests without a system message.

    `share` is its weight against other waiting apps of its tenant: twice the share gets twice the
    tokens. `memory` is where keys and values may be, of requests that do not say it and that the
    device cannot hold.
    """

    name: Name
    instruction: Instruction | None = None
    share: ShareWeight = 1.0
    memory: KvPlacement = "device"


class AppChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields to change; omitted and null fields keep their values.

    An empty `instruction` removes it.
    """

    name: Name | None = None
    instruction: Instruction | None = None
    share: ShareWeight | None = None
    memory: KvPlacement | None = None


class AppAnswer(Struct, frozen=True):
    """An app."""

    id: UUID
    tenant_id: UUID
    name: str
    instruction: str | None
    share: float
    memory: str
    created_at: datetime


class TenantAppAnswer(Struct, frozen=True):
    """An app; `tenant` is the tenant's name."""

    id: UUID
    tenant_id: UUID
    tenant: str
    name: str
    instruction: str | None
    share: float
    memory: str
    created_at: datetime

    @classmethod
    def of(cls, found: TenantApp) -> Self:
        """The app as clients see it."""
        return to_answer(cls, found.app, tenant=found.tenant)


class AppsController(Controller):
    """Creates and lists the apps of a tenant."""

    path = "/tenants/{tenant_id:uuid}/apps"
    opt = area(Scope.TENANTS)

    @post(summary="Create an app of a tenant", responses=errors(409))
    async def create_app(
        self,
        tenant_id: FromPath[UUID],
        data: JSONBody[AppRequest],
        apps: NamedDependency[Apps],
        actor: Actor,
    ) -> AppAnswer:
        """The new app; 404 if there is no such tenant, 409 if it has an app of that name.

        400 if the served model's chat template refuses the instruction.
        """
        made = await apps.create(
            tenant_id, data.name, data.instruction, share=data.share, memory=data.memory, by=actor
        )
        return to_answer(AppAnswer, made)

    @get(summary="List the apps of a tenant")
    async def list_apps(
        self,
        tenant_id: FromPath[UUID],
        cursor: NamedDependency[Cursor],
        apps: NamedDependency[Apps],
    ) -> Listing[AppAnswer]:
        """Apps, oldest first; 404 if there is no such tenant."""
        return listing(AppAnswer, await apps.list(tenant_id, cursor))


class AllAppsController(Controller):
    """Lists the apps of all tenants; changes and deletes one."""

    path = "/apps"
    opt = area(Scope.TENANTS)

    @get(summary="List the apps of all tenants")
    async def list_all_apps(
        self,
        cursor: NamedDependency[Cursor],
        apps: NamedDependency[Apps],
        tenant: OfTenant = None,
        name: NameFilter = None,
    ) -> Listing[TenantAppAnswer]:
        """Apps with the names of their tenants, oldest first."""
        page = await apps.list_all(cursor, tenant=tenant, name=name)
        return Listing(data=[TenantAppAnswer.of(found) for found in page.items], has_more=page.more)

    @patch("/{app_id:uuid}", summary="Change an app", responses=errors(409))
    async def change_app(
        self,
        app_id: FromPath[UUID],
        data: JSONBody[AppChange],
        apps: NamedDependency[Apps],
        actor: Actor,
    ) -> AppAnswer:
        """The app; 404 if there is none, 409 if its tenant has an app of that name.

        400 if the served model's chat template refuses the instruction. Every gateway goes by the
        change at once.
        """
        changed = await apps.change(
            app_id,
            name=data.name,
            instruction=data.instruction,
            share=data.share,
            memory=data.memory,
            by=actor,
        )
        return to_answer(AppAnswer, changed)

    @delete("/{app_id:uuid}", status_code=200, summary="Delete an app")
    async def delete_app(
        self, app_id: FromPath[UUID], deletions: NamedDependency[Deletions], actor: Actor
    ) -> DeletedAnswer:
        """The deleted app; 404 if there is none.

        Its keys are gone at once, for every gateway, its requests end and its batches are
        cancelled. What was learned from its requests is erased in the background; usage and cost
        stay, under its name, and so do files, which are its tenant's.
        """
        return to_answer(DeletedAnswer, await deletions.delete_app(app_id, by=actor))
