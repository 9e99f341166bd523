"""Apps: the applications of a tenant, each with its instruction (the system message)."""

from collections.abc import Callable
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from engine.protocol import KvPlacement
from gateway.database.errors import Sessions, transaction
from gateway.database.notify import React, unchanged
from gateway.errors import InvalidRequest, NotFound
from gateway.history.audit import note
from gateway.tenancy.changes import announce
from gateway.tenancy.naming import checked_instruction, checked_name
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.share import checked_share
from gateway.tenancy.tenants import present_tenant, set_fields
from models import App, Tenant


class TenantApp(Struct, frozen=True):
    """An app, and the name of its tenant."""

    app: App
    tenant: str


class Apps:
    """Creates, lists and changes the apps of a tenant."""

    def __init__(
        self,
        sessions: Sessions,
        check_instruction: Callable[[str], None] | None = None,
        changed: React = unchanged,
    ) -> None:
        """`check_instruction` raises InvalidRequest if the served model refuses an instruction.

        `changed` is called after a change: this gateway goes by it on return.
        """
        self._sessions = sessions
        self._check_instruction = check_instruction
        self._changed = changed

    async def create(
        self,
        tenant_id: UUID,
        name: str,
        instruction: str | None = None,
        *,
        by: str,
        share: float = 1.0,
        memory: KvPlacement = "device",
    ) -> App:
        """A new app. NotFound if there is no such tenant, Conflict if it has one of that name.

        InvalidRequest if the name, the instruction or the share is not accepted. `memory` is where
        keys and values may be of its requests that do not say it.
        """
        accepted = self._checked(instruction)
        app = App(
            tenant_id=tenant_id,
            name=checked_name(name),
            instruction=accepted,
            share=checked_share(share),
            memory=memory,
        )
        async with transaction(self._sessions, conflict=_taken(name)) as session:
            await present_tenant(session, tenant_id)
            session.add(app)
            await session.flush()
            after = {
                "tenant": str(tenant_id),
                "name": app.name,
                "share": app.share,
                "memory": app.memory,
                **_shown(app),
            }
            note(session, by, "app.created", app.id, after=after)
        return app

    async def change(
        self,
        app_id: UUID,
        *,
        name: str | None = None,
        instruction: str | None = None,
        share: float | None = None,
        memory: KvPlacement | None = None,
        by: str,
    ) -> App:
        """Change the given fields, all or none; an empty instruction is none. NotFound,
        InvalidRequest; Conflict if the tenant has an app of that name. Every gateway goes by it at
        once; the audit trail has the length of the instruction, not its text.
        """
        if all(given is None for given in (name, instruction, share, memory)):
            raise InvalidRequest(
                "nothing to change; accepted are name, instruction, share and memory"
            )
        if name is not None:
            checked_name(name)
        if share is not None:
            checked_share(share)
        accepted = self._checked(instruction)
        async with transaction(self._sessions, conflict=_taken(name)) as session:
            app = await present_app(session, app_id, lock=True)
            before, after = set_fields(app, {"name": name, "share": share, "memory": memory})
            if instruction is not None and accepted != app.instruction:
                before |= _shown(app)
                app.instruction = accepted
                after |= _shown(app)
            if after:
                note(session, by, "app.changed", app_id, before=before, after=after)
            await announce(session)
        await self._changed()
        return app

    async def list(self, tenant_id: UUID, cursor: Cursor) -> Page[App]:
        """A tenant's apps, oldest first. NotFound if there is no such tenant."""
        async with transaction(self._sessions) as session:
            await present_tenant(session, tenant_id)
            own = (App.tenant_id == tenant_id, App.deleted_at.is_(None))
            return await read_page(session, App, cursor, *own)

    async def list_all(
        self, cursor: Cursor, *, tenant: str | None = None, name: str | None = None
    ) -> Page[TenantApp]:
        """The apps of all tenants, oldest first; with `tenant` or `name` those of that name."""
        statement = select(App, Tenant.name).join(Tenant, Tenant.id == App.tenant_id)
        statement = statement.where(App.deleted_at.is_(None), Tenant.deleted_at.is_(None))
        if tenant is not None:
            statement = statement.where(Tenant.name == tenant)
        if name is not None:
            statement = statement.where(App.name == name)
        if cursor.after is not None:
            statement = statement.where(App.id > cursor.after)
        async with transaction(self._sessions) as session:
            rows = await session.execute(statement.order_by(App.id).limit(cursor.limit + 1))
            return cursor.page([TenantApp(app, of) for app, of in rows])

    def _checked(self, instruction: str | None) -> str | None:
        """The instruction, if it is valid and the served model takes it. InvalidRequest."""
        accepted = checked_instruction(instruction)
        if accepted and self._check_instruction:
            self._check_instruction(accepted)
        return accepted


async def present_app(session: AsyncSession, app_id: UUID, *, lock: bool = False) -> App:
    """An app that is not deleted, nor its tenant. NotFound."""
    statement = (
        select(App)
        .join(Tenant, Tenant.id == App.tenant_id)
        .where(App.id == app_id, App.deleted_at.is_(None), Tenant.deleted_at.is_(None))
    )
    app = await session.scalar(statement.with_for_update(of=App) if lock else statement)
    if app is None:
        raise NotFound(f"there is no app {app_id}", param="app_id")
    return app


def _shown(app: App) -> dict[str, int]:
    """The instruction in the audit trail, without its text."""
    return {"instruction_characters": len(app.instruction or "")}


def _taken(name: str | None) -> str:
    return f"the tenant has an app named {name!r} already"
