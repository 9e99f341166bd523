"""Apps: one application of a tenant, with its instruction."""

from uuid import UUID

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.errors import NotFound
from gateway.tenancy.naming import checked_instruction, checked_name
from gateway.tenancy.paging import Cursor, Page
from models import App, Tenant


class Apps:
    """Makes and lists the apps of a tenant."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def create(self, tenant_id: UUID, name: str, instruction: str | None = None) -> App:
        """A new app. NotFound if there is no such tenant, Conflict if it has one of that name."""
        app = App(
            tenant_id=tenant_id,
            name=checked_name(name),
            instruction=checked_instruction(instruction),
        )
        taken = f"the tenant has an app named {name!r} already"
        async with transaction(self._sessions, conflict=taken) as session:
            if await session.get(Tenant, tenant_id) is None:
                raise _no_tenant(tenant_id)
            session.add(app)
        return app

    async def list(self, tenant_id: UUID, cursor: Cursor) -> Page[App]:
        """A tenant's apps, oldest first. NotFound if there is no such tenant."""
        statement = (
            select(App).where(App.tenant_id == tenant_id).order_by(App.id).limit(cursor.limit + 1)
        )
        if cursor.after is not None:
            statement = statement.where(App.id > cursor.after)
        async with transaction(self._sessions) as session:
            if await session.get(Tenant, tenant_id) is None:
                raise _no_tenant(tenant_id)
            return cursor.page(list(await session.scalars(statement)))


def _no_tenant(tenant_id: UUID) -> NotFound:
    return NotFound(f"there is no tenant {tenant_id}", param="tenant_id")
