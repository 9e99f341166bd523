"""Deletes tenants and apps: their keys and names at once, their data in the background."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, now_of, transaction
from gateway.database.notify import LIMITS, React, notify, unchanged
from gateway.history.audit import note
from gateway.tenancy.apps import present_app
from gateway.tenancy.changes import announce
from gateway.tenancy.tenants import present_tenant
from models import ApiKey, App, Erasure, StoredLimit, Tenant


class Deletions:
    """Deletes tenants and apps.

    The tenant's row is locked for it, as by everything that adds to a tenant: history, files and
    jobs come either before and are erased, or after and are refused or reduced to their usage.
    """

    def __init__(self, sessions: Sessions, changed: React = unchanged) -> None:
        """`changed` is called after a deletion: this gateway goes by it on return."""
        self._sessions = sessions
        self._changed = changed

    async def delete_tenant(self, tenant_id: UUID, *, by: str) -> Tenant:
        """The tenant, deleted with its apps and keys. NotFound."""
        async with transaction(self._sessions) as session:
            tenant = await present_tenant(session, tenant_id, lock=True)
            tenant.deleted_at = now = await now_of(session)
            tenant.learning = False
            await session.execute(
                update(App)
                .where(App.tenant_id == tenant_id, App.deleted_at.is_(None))
                .values(deleted_at=now, instruction=None)
            )
            await _revoke(session, select(App.id).where(App.tenant_id == tenant_id), now)
            await _end_limits(session, select(App.id).where(App.tenant_id == tenant_id), tenant_id)
            session.add(Erasure(tenant_id=tenant_id, actor=by))
            note(session, by, "tenant.deleted", tenant_id, before={"name": tenant.name})
            await announce(session)
        await self._changed()
        return tenant

    async def delete_app(self, app_id: UUID, *, by: str) -> App:
        """The app, deleted with its keys. NotFound."""
        async with transaction(self._sessions) as session:
            tenant_id = (await present_app(session, app_id)).tenant_id
            await present_tenant(session, tenant_id, lock=True)
            app = await present_app(session, app_id, lock=True)
            app.deleted_at = now = await now_of(session)
            app.instruction = None
            await _revoke(session, select(App.id).where(App.id == app_id), now)
            await _end_limits(session, select(App.id).where(App.id == app_id))
            session.add(Erasure(tenant_id=tenant_id, app_id=app_id, actor=by))
            before = {"name": app.name, "tenant": str(tenant_id)}
            note(session, by, "app.deleted", app_id, before=before)
            await announce(session)
        await self._changed()
        return app


async def _revoke(session: AsyncSession, apps: Select[UUID], now: datetime) -> None:
    """Revoke the keys of these apps that are not."""
    keys = update(ApiKey).where(ApiKey.app_id.in_(apps), ApiKey.revoked_at.is_(None))
    keys = keys.execution_options(synchronize_session=False)
    await session.execute(keys.values(revoked_at=now))


async def _end_limits(
    session: AsyncSession, apps: Select[UUID], tenant_id: UUID | None = None
) -> None:
    """Remove the limits of a tenant, of these apps and of their keys."""
    keys = select(ApiKey.id).where(ApiKey.app_id.in_(apps))
    owned: list[ColumnElement[bool]] = [
        StoredLimit.app_id.in_(apps),
        StoredLimit.api_key_id.in_(keys),
    ]
    if tenant_id is not None:
        owned.append(StoredLimit.tenant_id == tenant_id)
    limits = delete(StoredLimit).where(or_(*owned))
    await session.execute(limits.execution_options(synchronize_session=False))
    await notify(session, LIMITS)
