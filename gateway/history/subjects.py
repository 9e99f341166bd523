"""The ids of the tenants, apps and keys that a filter of history names."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.errors import InvalidRequest, shortened
from models import ApiKey, App, RequestRecord, Tenant

MAX_NAMED: Final = 1_000  # tenants, apps or keys of one name


class Subjects(Struct, frozen=True):
    """Whose requests are wanted: those with one of `ids` in `column`, and with `conditions`.

    `column` None: everybody's.
    """

    column: Any = None
    ids: Sequence[UUID] = ()
    conditions: Sequence[ColumnElement[bool]] = ()


async def find_subjects(
    session: AsyncSession, tenant: str | None, app: str | None, key: str | None
) -> Subjects:
    """The subjects of these ids or names, at the narrowest level that is given.

    An id that names nothing stands for itself, since history outlives tenants, apps and keys.
    InvalidRequest if a name stands for more than MAX_NAMED.
    """
    found = Subjects()
    for param, given, kind, parent, column in (
        ("tenant", tenant, Tenant, None, RequestRecord.tenant_id),
        ("app", app, App, App.tenant_id, RequestRecord.app_id),
        ("key", key, ApiKey, App.tenant_id if app is None else App.id, RequestRecord.api_key_id),
    ):
        if given is not None:
            found = await _narrowed(session, found, param, given, kind, parent, column)
    return found


async def _narrowed(
    session: AsyncSession,
    wider: Subjects,
    param: str,
    given: str,
    kind: Any,
    parent: Any,
    column: Any,
) -> Subjects:
    """The subjects of a level within those of the wider ones."""
    id_ = _id(given)
    statement = select(kind.id).where(
        kind.name == given if id_ is None else or_(kind.id == id_, kind.name == given)
    )
    if kind is ApiKey:
        statement = statement.join(App, App.id == ApiKey.app_id)
    if wider.column is not None:
        statement = statement.where(parent.in_(wider.ids))
    ids = [*await session.scalars(statement.limit(MAX_NAMED + 1))]
    if len(ids) > MAX_NAMED:
        raise InvalidRequest(
            f"{param} {shortened(given)!r} is the name of more than {MAX_NAMED}; give an id",
            param=param,
        )
    if id_ is None or id_ in ids:
        return Subjects(column, ids)
    # Of something deleted, or of something outside the wider subjects: those conditions stay.
    outside = () if wider.column is None else (wider.column.in_(wider.ids),)
    return Subjects(column, [*ids, id_], (*wider.conditions, *outside))


def _id(given: str) -> UUID | None:
    try:
        return UUID(given)
    except ValueError:
        return None
