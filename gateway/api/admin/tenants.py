"""`/admin/tenants`: the tenants, their shares, learning opt-outs, files, and their deletion."""

from datetime import datetime
from uuid import UUID

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.admin.fields import DeletedAnswer, Name, TenantShare
from gateway.api.envelope import Listing, NameFilter, listing, to_answer
from gateway.api.openapi import errors
from gateway.deletion.deletions import Deletions
from gateway.files.store import ErasedFiles, FileStore
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope
from gateway.tenancy.tenants import Tenants


class TenantRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to create; the name has 1 to 100 characters and is unique.

    `share`, 0.01 to 100, is its weight among the tenants that wait for the same engine.
    """

    name: Name
    share: TenantShare = 1.0


class TenantChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields to change; omitted and null fields keep their values.

    With `learning` false no training data of its requests is kept. `share` is 0.01 to 100.
    """

    name: Name | None = None
    learning: bool | None = None
    share: TenantShare | None = None


class TenantAnswer(Struct, frozen=True):
    """A tenant; with `learning` the length predictor learns from its requests.

    Of two tenants with requests always waiting, one with twice the `share` gets twice the tokens.
    """

    id: UUID
    name: str
    learning: bool
    share: float
    created_at: datetime


class TenantsController(Controller):
    """Creates, lists, shows, changes and deletes tenants."""

    path = "/tenants"
    opt = area(Scope.TENANTS)

    @post(summary="Create a tenant", responses=errors(409))
    async def create_tenant(
        self, data: JSONBody[TenantRequest], tenants: NamedDependency[Tenants], actor: Actor
    ) -> TenantAnswer:
        """The new tenant; 409 if the name is taken."""
        return to_answer(TenantAnswer, await tenants.create(data.name, share=data.share, by=actor))

    @get(summary="List the tenants")
    async def list_tenants(
        self,
        cursor: NamedDependency[Cursor],
        tenants: NamedDependency[Tenants],
        name: NameFilter = None,
    ) -> Listing[TenantAnswer]:
        """Tenants, oldest first."""
        return listing(TenantAnswer, await tenants.list(cursor, name))

    @get("/{tenant_id:uuid}", summary="Show a tenant")
    async def show_tenant(
        self, tenant_id: FromPath[UUID], tenants: NamedDependency[Tenants]
    ) -> TenantAnswer:
        """One tenant; 404 if there is none."""
        return to_answer(TenantAnswer, await tenants.show(tenant_id))

    @patch("/{tenant_id:uuid}", summary="Change a tenant", responses=errors(409))
    async def change_tenant(
        self,
        tenant_id: FromPath[UUID],
        data: JSONBody[TenantChange],
        tenants: NamedDependency[Tenants],
        actor: Actor,
    ) -> TenantAnswer:
        """The tenant; 404 if there is none, 409 if the name is taken.

        Every gateway goes by the change at once. Usage is shown under the new name. Once opted out
        of learning, the tenant is in no training set, and history keeps only its usage; `DELETE
        /admin/tenants/{id}/samples` erases earlier samples.
        """
        changed = await tenants.change(
            tenant_id, name=data.name, learning=data.learning, share=data.share, by=actor
        )
        return to_answer(TenantAnswer, changed)

    @delete("/{tenant_id:uuid}", status_code=200, summary="Delete a tenant")
    async def delete_tenant(
        self, tenant_id: FromPath[UUID], deletions: NamedDependency[Deletions], actor: Actor
    ) -> DeletedAnswer:
        """The deleted tenant; 404 if there is none.

        Its apps and keys are gone at once, for every gateway, and its requests end. Its batches,
        files, and what was learned from its requests are erased in the background; usage and cost
        stay, under its name.
        """
        return to_answer(DeletedAnswer, await deletions.delete_tenant(tenant_id, by=actor))

    @delete("/{tenant_id:uuid}/files", status_code=200, summary="Erase a tenant's files")
    async def erase_files(
        self, tenant_id: FromPath[UUID], files: NamedDependency[FileStore], actor: Actor
    ) -> ErasedFiles:
        """The number of files that were erased, and their bytes; unfinished uploads count.

        404 if there is no such tenant.
        """
        return await files.erase(tenant_id, by=actor)
