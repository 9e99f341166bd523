"""Pages of lists."""

from typing import Final, Generic, TypeVar
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from models import ApiKey, App, Batch, ScopedKey, StoredFile, Tenant

MAX_LIMIT: Final = 100
DEFAULT_LIMIT: Final = 20

T = TypeVar("T")
Row = TypeVar("Row", ApiKey, App, Batch, ScopedKey, StoredFile, Tenant)


class Page(Struct, Generic[T], frozen=True):
    """A page of a list in order of ids; the next page starts after the last item's."""

    items: list[T]
    more: bool


class Cursor(Struct, frozen=True):
    """Where a page starts (after the item with this id), and its most items."""

    limit: int = DEFAULT_LIMIT
    after: UUID | None = None

    def page(self, items: list[T]) -> Page[T]:
        """`items` as a page; an item beyond `limit` means that there are more."""
        return Page(items[: self.limit], len(items) > self.limit)


async def read_page(
    session: AsyncSession,
    kind: type[Row],
    cursor: Cursor,
    *conditions: ColumnElement[bool],
    newest_first: bool = False,
) -> Page[Row]:
    """A page of the rows of a table that satisfy `conditions`, oldest first by default."""
    order = kind.id.desc() if newest_first else kind.id
    statement = select(kind).where(*conditions).order_by(order).limit(cursor.limit + 1)
    if cursor.after is not None:
        beyond = kind.id < cursor.after if newest_first else kind.id > cursor.after
        statement = statement.where(beyond)
    return cursor.page(list(await session.scalars(statement)))
