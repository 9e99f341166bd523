"""`/admin/batches`: the batch jobs of all tenants."""

from typing import Annotated, TypeAlias

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from gateway.api.admin.actor import area
from gateway.api.admin.usage.usage import OfTenant
from gateway.api.envelope import Listing
from gateway.jobs.batches.listing import AllBatches, ListedBatch
from gateway.jobs.batches.states import Status
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope

OfStatus: TypeAlias = Annotated[
    Status | None, QueryParameter(description="only batches in this status")
]


class AllBatchesController(Controller):
    """Lists the batches of all tenants."""

    path = "/batches"
    opt = area(Scope.TENANTS)

    @get(summary="List the batches of all tenants")
    async def list_batches(
        self,
        cursor: NamedDependency[Cursor],
        batches: NamedDependency[AllBatches],
        tenant: OfTenant = None,
        status: OfStatus = None,
    ) -> Listing[ListedBatch]:
        """Batches of all models and gateways, newest first."""
        page = await batches.list(cursor, tenant=tenant, status=status)
        return Listing(data=page.items, has_more=page.more)
