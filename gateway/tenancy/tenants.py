"""Tenants: the organisations or teams that share the engine."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.errors import InvalidRequest, NotFound
from gateway.history.audit import note
from gateway.tenancy.naming import checked_name
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.share import checked_share
from models import Tenant


class Tenants:
    """Creates, lists, shows and changes tenants."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def create(self, name: str, *, share: float = 1.0) -> Tenant:
        """A new tenant. Conflict if the name is taken."""
        tenant = Tenant(name=checked_name(name), share=checked_share(share))
        taken = f"a tenant named {name!r} exists already"
        async with transaction(self._sessions, conflict=taken) as session:
            session.add(tenant)
        return tenant

    async def list(self, cursor: Cursor, name: str | None = None) -> Page[Tenant]:
        """Tenants, oldest first; with `name` the one of that name."""
        wanted = [] if name is None else [Tenant.name == name]
        async with transaction(self._sessions) as session:
            return await read_page(session, Tenant, cursor, *wanted)

    async def show(self, tenant_id: UUID) -> Tenant:
        """One tenant. NotFound."""
        async with transaction(self._sessions) as session:
            tenant = await session.get(Tenant, tenant_id)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant

    async def change(
        self, tenant_id: UUID, *, learning: bool | None = None, share: float | None = None, by: str
    ) -> Tenant:
        """Change the given fields, all or none. NotFound, InvalidRequest.

        `learning` False: training skips the tenant's history, and history stores no features,
        embeddings and users of the tenant from now on; `gateway.prediction.lifecycle.erasure`
        deletes the old ones. A new `share` applies to requests once their caller's cache entry
        expires.
        """
        if learning is None and share is None:
            raise InvalidRequest("nothing to change; accepted are learning and share")
        if share is not None:
            checked_share(share)
        async with transaction(self._sessions) as session:
            tenant = await session.get(Tenant, tenant_id, with_for_update=True)
            if tenant is None:
                raise no_tenant(tenant_id)
            _set(session, tenant, "learning", learning, by)
            _set(session, tenant, "share", share, by)
        return tenant


def _set(
    session: AsyncSession, tenant: Tenant, field: str, value: float | bool | None, by: str
) -> None:
    """Set a field if its value differs, and record the change in the audit log."""
    before = getattr(tenant, field)
    if value is None or value == before:
        return
    setattr(tenant, field, value)
    note(session, by, f"tenant.{field}", tenant.id, before={field: before}, after={field: value})


async def lock_tenant(session: AsyncSession, tenant_id: UUID) -> None:
    """Lock a tenant's row, so that two transactions do not take the same of what it may have."""
    lock = select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True)
    await session.execute(lock)


def no_tenant(tenant_id: UUID) -> NotFound:
    """The error for an unknown tenant id."""
    return NotFound(f"there is no tenant {tenant_id}", param="tenant_id")
