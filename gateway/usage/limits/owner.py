"""Finds the tenant, app or key that a limit is for, by its id or its names."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import Select, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.errors import Conflict, InvalidRequest, NotFound, shortened
from gateway.limits.limit import Level
from models import ApiKey, App, StoredLimit, Tenant

FORMS: dict[Level, str] = {
    "tenant": "a tenant's id or name",
    "app": "an app's id, or TENANT/APP",
    "user": "an app's id, or TENANT/APP",
    "key": "a key's id, or TENANT/APP/KEY",
}


async def find_owner(session: AsyncSession, level: Level, owner: str | None) -> UUID | None:
    """The id of the owner of a limit of this level; None for the node.

    NotFound; Conflict if several have this name; InvalidRequest if the node is given an owner or
    another level none.
    """
    if level == "node" or owner is None:
        if (level == "node") == (owner is None):
            return None
        wanted = "none for the node" if level == "node" else FORMS[level]
        raise InvalidRequest(f"owner: accepted is {wanted}", param="owner")
    if "\0" in owner:
        raise _unknown(level, owner)
    found = (await session.scalars(_wanted(level, owner))).all()
    if not found:
        raise _unknown(level, owner)
    if len(found) > 1:
        raise Conflict(f"{shortened(owner)!r} names several; use an id", param="owner")
    return found[0]


async def owner_names(session: AsyncSession, limits: Iterable[StoredLimit]) -> dict[UUID, str]:
    """The names of the limits' owners by id: TENANT, TENANT/APP or TENANT/APP/KEY."""
    owners = {limit.owner for limit in limits if limit.owner is not None}
    of_app = Tenant.name + "/" + App.name
    app_of_tenant, key_of_app = App.tenant_id == Tenant.id, ApiKey.app_id == App.id
    named = (
        select(Tenant.id, Tenant.name).where(Tenant.id.in_(owners)),
        select(App.id, of_app).where(app_of_tenant, App.id.in_(owners)),
        select(ApiKey.id, of_app + "/" + ApiKey.name).where(
            app_of_tenant, key_of_app, ApiKey.id.in_(owners)
        ),
    )
    rows = (await session.execute(union_all(*named))).all() if owners else []
    return {row[0]: row[1] for row in rows}


def _unknown(level: Level, owner: str) -> NotFound:
    return NotFound(f"there is no {shortened(owner)!r}; accepted is {FORMS[level]}", param="owner")


def _wanted(level: Level, owner: str) -> Select[UUID]:
    by_id = _by_id(level, owner)
    return _by_names(level, owner) if by_id is None else by_id


def _by_id(level: Level, owner: str) -> Select[UUID] | None:
    try:
        wanted = UUID(owner)
    except ValueError:
        return None
    if level == "tenant":
        return select(Tenant.id).where(Tenant.id == wanted, Tenant.deleted_at.is_(None))
    if level == "key":
        return select(ApiKey.id).where(ApiKey.id == wanted)
    return select(App.id).where(App.id == wanted, App.deleted_at.is_(None))


def _by_names(level: Level, owner: str) -> Select[UUID]:
    """Names may contain slashes, so every way to divide them is compared."""
    if level == "tenant":
        return select(Tenant.id).where(Tenant.name == owner, Tenant.deleted_at.is_(None))
    of_app = Tenant.name + "/" + App.name
    apps = select(App.id).join(Tenant, Tenant.id == App.tenant_id)
    if level != "key":
        return apps.where(of_app == owner, App.deleted_at.is_(None))
    keys = select(ApiKey.id).join(App, App.id == ApiKey.app_id)
    keys = keys.join(Tenant, Tenant.id == App.tenant_id)
    return keys.where(of_app + "/" + ApiKey.name == owner, ApiKey.revoked_at.is_(None))
