"""Apps: the applications of a tenant, each with its instruction (the system message)."""

from collections.abc import Callable
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.tenancy.naming import checked_instruction, checked_name
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.tenants import no_tenant
from models import App, Tenant


class TenantApp(Struct, frozen=True):
    """An app, and the name of its tenant."""

    app: App
    tenant: str


class Apps:
    """Creates and lists the apps of a tenant."""

    def __init__(
        self, sessions: Sessions, check_instruction: Callable[[str], None] | None = None
    ) -> None:
        """`check_instruction` raises InvalidRequest if the served model refuses an instruction."""
        self._sessions = sessions
        self._check_instruction = check_instruction

    async def create(self, tenant_id: UUID, name: str, instruction: str | None = None) -> App:
        """A new app. NotFound if there is no such tenant, Conflict if it has one of that name.

        InvalidRequest if the name or the instruction is not accepted.
        """
        accepted = checked_instruction(instruction)
        if accepted and self._check_instruction:
            self._check_instruction(accepted)
        app = App(tenant_id=tenant_id, name=checked_name(name), instruction=accepted)
        taken = f"the tenant has an app named {name!r} already"
        async with transaction(self._sessions, conflict=taken) as session:
            if await session.get(Tenant, tenant_id) is None:
                raise no_tenant(tenant_id)
            session.add(app)
        return app

    async def list(self, tenant_id: UUID, cursor: Cursor) -> Page[App]:
        """A tenant's apps, oldest first. NotFound if there is no such tenant."""
        async with transaction(self._sessions) as session:
            if await session.get(Tenant, tenant_id) is None:
                raise no_tenant(tenant_id)
            return await read_page(session, App, cursor, App.tenant_id == tenant_id)

    async def list_all(
        self, cursor: Cursor, *, tenant: str | None = None, name: str | None = None
    ) -> Page[TenantApp]:
        """The apps of all tenants, oldest first; with `tenant` or `name` those of that name."""
        statement = select(App, Tenant.name).join(Tenant, Tenant.id == App.tenant_id)
        if tenant is not None:
            statement = statement.where(Tenant.name == tenant)
        if name is not None:
            statement = statement.where(App.name == name)
        if cursor.after is not None:
            statement = statement.where(App.id > cursor.after)
        async with transaction(self._sessions) as session:
            rows = await session.execute(statement.order_by(App.id).limit(cursor.limit + 1))
            return cursor.page([TenantApp(app, of) for app, of in rows])
