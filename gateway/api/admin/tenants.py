"""`/admin/tenants`: who pays."""

from datetime import datetime
from typing import Self
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Struct

from gateway.api.envelope import Listing
from gateway.tenancy.paging import Cursor
from gateway.tenancy.tenants import Tenants
from models import Tenant


class TenantRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to make; the name is 1 to 100 characters and not taken."""

    name: str


class TenantAnswer(Struct, frozen=True):
    """A tenant."""

    id: UUID
    name: str
    created_at: datetime

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """The tenant as clients see it."""
        return cls(tenant.id, tenant.name, tenant.created_at)


class TenantsController(Controller):
    """Makes and lists tenants."""

    path = "/tenants"

    @post(summary="Make a tenant")
    async def create_tenant(
        self, data: JSONBody[TenantRequest], tenants: NamedDependency[Tenants]
    ) -> TenantAnswer:
        """The new tenant; 409 if the name is taken."""
        return TenantAnswer.of(await tenants.create(data.name))

    @get(summary="List the tenants")
    async def list_tenants(
        self, cursor: NamedDependency[Cursor], tenants: NamedDependency[Tenants]
    ) -> Listing[TenantAnswer]:
        """Tenants, oldest first."""
        page = await tenants.list(cursor)
        return Listing(data=[TenantAnswer.of(tenant) for tenant in page.items], has_more=page.more)
