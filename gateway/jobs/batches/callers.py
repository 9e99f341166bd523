"""The callers of jobs: the apps that created them."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.tenancy.caller import Caller, weight_of
from models import ApiKey, App, Batch, Tenant


async def read_callers(session: AsyncSession, batch_ids: Sequence[UUID]) -> dict[UUID, Caller]:
    """The caller of each job, with its app's present instruction and its tenant's share.

    A job goes on when the key that created it is revoked. Its lines may have the tiers of the key.
    """
    statement = (
        select(
            Batch.id,
            Batch.api_key_id,
            App.id,
            App.name,
            App.instruction,
            App.share,
            Tenant,
            ApiKey.service_tiers,
        )
        .join(App, App.id == Batch.app_id)
        .outerjoin(ApiKey, ApiKey.id == Batch.api_key_id)
        .join(Tenant, Tenant.id == Batch.tenant_id)
        .where(Batch.id.in_(batch_ids))
    )
    rows = (await session.execute(statement)).all()
    return {
        batch_id: Caller(
            tenant_id=tenant.id,
            tenant=tenant.name,
            app_id=app_id,
            app=app,
            api_key_id=key_id,
            instruction=instruction,
            share=weight_of(tenant.share),
            app_share=weight_of(app_share),
            service_tiers=tuple(tiers) if tiers is not None else None,
        )
        for batch_id, key_id, app_id, app, instruction, app_share, tenant, tiers in rows
    }
