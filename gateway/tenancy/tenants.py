"""Tenants: who pays."""

from uuid import UUID

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.errors import NotFound
from gateway.history.audit import note
from gateway.tenancy.naming import checked_name
from gateway.tenancy.paging import Cursor, Page
from models import Tenant


class Tenants:
    """Makes, lists, shows and changes tenants."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def create(self, name: str) -> Tenant:
        """A new tenant. Conflict if the name is taken."""
        tenant = Tenant(name=checked_name(name))
        taken = f"a tenant named {name!r} exists already"
        async with transaction(self._sessions, conflict=taken) as session:
            session.add(tenant)
        return tenant

    async def list(self, cursor: Cursor) -> Page[Tenant]:
        """Tenants, oldest first."""
        statement = select(Tenant).order_by(Tenant.id).limit(cursor.limit + 1)
        if cursor.after is not None:
            statement = statement.where(Tenant.id > cursor.after)
        async with transaction(self._sessions) as session:
            return cursor.page(list(await session.scalars(statement)))

    async def show(self, tenant_id: UUID) -> Tenant:
        """One tenant. NotFound."""
        async with transaction(self._sessions) as session:
            tenant = await session.get(Tenant, tenant_id)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant

    async def allow_learning(self, tenant_id: UUID, *, allowed: bool, by: str) -> Tenant:
        """Let the predictor learn from the tenant's requests, or not. NotFound.

        Without it, training leaves out what is in history, and from now on history keeps neither
        features nor embeddings nor users of the tenant. `prediction.erasure` forgets the old ones.
        """
        async with transaction(self._sessions) as session:
            tenant = await session.get(Tenant, tenant_id, with_for_update=True)
            if tenant is None:
                raise no_tenant(tenant_id)
            if tenant.learning != allowed:
                before, after = {"learning": tenant.learning}, {"learning": allowed}
                tenant.learning = allowed
                note(session, by, "tenant.learning", tenant_id, before=before, after=after)
        return tenant


def no_tenant(tenant_id: UUID) -> NotFound:
    """The error for an id of nothing."""
    return NotFound(f"there is no tenant {tenant_id}", param="tenant_id")
