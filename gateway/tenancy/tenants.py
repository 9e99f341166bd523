"""Tenants: the organisations or teams that share the engine."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.database.notify import React, unchanged
from gateway.errors import InvalidRequest, NotFound, Unauthenticated
from gateway.history.audit import note
from gateway.tenancy.changes import announce
from gateway.tenancy.naming import checked_name
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.share import checked_share
from models import App, Tenant


class Tenants:
    """Creates, lists, shows and changes tenants."""

    def __init__(self, sessions: Sessions, changed: React = unchanged) -> None:
        """`changed` is called after a change: this gateway goes by it on return."""
        self._sessions = sessions
        self._changed = changed

    async def create(self, name: str, *, share: float = 1.0, by: str) -> Tenant:
        """A new tenant. Conflict if the name is taken."""
        tenant = Tenant(name=checked_name(name), share=checked_share(share))
        async with transaction(self._sessions, conflict=_taken(name)) as session:
            session.add(tenant)
            await session.flush()
            after = {"name": tenant.name, "share": tenant.share}
            note(session, by, "tenant.created", tenant.id, after=after)
        return tenant

    async def list(self, cursor: Cursor, name: str | None = None) -> Page[Tenant]:
        """Tenants, oldest first; with `name` the one of that name."""
        wanted: list[ColumnElement[bool]] = [Tenant.deleted_at.is_(None)]
        if name is not None:
            wanted.append(Tenant.name == name)
        async with transaction(self._sessions) as session:
            return await read_page(session, Tenant, cursor, *wanted)

    async def show(self, tenant_id: UUID) -> Tenant:
        """One tenant. NotFound."""
        async with transaction(self._sessions) as session:
            return await present_tenant(session, tenant_id)

    async def change(
        self,
        tenant_id: UUID,
        *,
        name: str | None = None,
        learning: bool | None = None,
        share: float | None = None,
        by: str,
    ) -> Tenant:
        """Change the given fields, all or none. NotFound, InvalidRequest; Conflict: a taken name.

        `learning` False: training skips the tenant's history, and history stores no features,
        embeddings and users of the tenant from now on; `gateway.prediction.lifecycle.erasure`
        deletes the old ones. Every gateway goes by a change at once.
        """
        given = {"name": name, "learning": learning, "share": share}
        if all(value is None for value in given.values()):
            raise InvalidRequest("nothing to change; accepted are name, learning and share")
        if name is not None:
            checked_name(name)
        if share is not None:
            checked_share(share)
        async with transaction(self._sessions, conflict=_taken(name)) as session:
            tenant = await present_tenant(session, tenant_id, lock=True)
            before, after = set_fields(tenant, given)
            if after:
                note(session, by, "tenant.changed", tenant_id, before=before, after=after)
            await announce(session)
        await self._changed()
        return tenant


def set_fields(
    row: Tenant | App, given: Mapping[str, object]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set the fields of a row that are given, None: not, and differ; these before and after."""
    before = {field: getattr(row, field) for field in given}
    after = {field: value for field, value in given.items() if value not in (None, before[field])}
    for field, value in after.items():
        setattr(row, field, value)
    return {field: before[field] for field in after}, after


async def present_tenant(session: AsyncSession, tenant_id: UUID, *, lock: bool = False) -> Tenant:
    """A tenant that is not deleted. NotFound.

    Its `lock` keeps out whatever adds to a tenant: rows of history, files, jobs, apps.
    """
    tenant = await session.get(Tenant, tenant_id, with_for_update=lock)
    if tenant is None or tenant.deleted_at is not None:
        raise no_tenant(tenant_id)
    return tenant


async def lock_tenant(session: AsyncSession, tenant_id: UUID, app_id: UUID) -> None:
    """Lock a caller's tenant, so that two transactions do not take the same of what it may have.

    Unauthenticated if the tenant or the app is deleted: it can get no more files and jobs.
    """
    lock = (
        select(Tenant.id)
        .where(Tenant.id == tenant_id, Tenant.deleted_at.is_(None))
        .with_for_update(key_share=True)
    )
    tenant = await session.scalar(lock)
    deleted = await session.scalar(
        select(App.id).where(App.id == app_id, App.deleted_at.is_not(None))
    )
    if tenant is None or deleted is not None:
        raise Unauthenticated("the API key's tenant or app was deleted")


def no_tenant(tenant_id: UUID) -> NotFound:
    """The error for an unknown tenant id."""
    return NotFound(f"there is no tenant {tenant_id}", param="tenant_id")


def _taken(name: str | None) -> str:
    return f"a tenant named {name!r} exists already"
