"""`/admin/tenants/{tenant_id}/apps`: a tenant's applications."""

from datetime import datetime
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.admin.actor import area
from gateway.api.admin.fields import Instruction, Name
from gateway.api.envelope import Listing, listing, to_answer
from gateway.api.openapi import errors
from gateway.tenancy.apps import Apps
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope


class AppRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """An app to create; `instruction` applies to requests without a system message."""

    name: Name
    instruction: Instruction | None = None


class AppAnswer(Struct, frozen=True):
    """An app."""

    id: UUID
    tenant_id: UUID
    name: str
    instruction: str | None
    created_at: datetime


class AppsController(Controller):
    """Creates and lists the apps of a tenant."""

    path = "/tenants/{tenant_id:uuid}/apps"
    opt = area(Scope.TENANTS)

    @post(summary="Create an app of a tenant", responses=errors(409))
    async def create_app(
        self, tenant_id: FromPath[UUID], data: JSONBody[AppRequest], apps: NamedDependency[Apps]
    ) -> AppAnswer:
        """The new app; 404 if there is no such tenant, 409 if it has an app of that name.

        400 if the served model's chat template refuses the instruction.
        """
        return to_answer(AppAnswer, await apps.create(tenant_id, data.name, data.instruction))

    @get(summary="List the apps of a tenant")
    async def list_apps(
        self,
        tenant_id: FromPath[UUID],
        cursor: NamedDependency[Cursor],
        apps: NamedDependency[Apps],
    ) -> Listing[AppAnswer]:
        """Apps, oldest first; 404 if there is no such tenant."""
        return listing(AppAnswer, await apps.list(tenant_id, cursor))
