"""Converts rows and pages of rows to what clients read."""

from typing import Annotated, Any, Generic, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.validation import STORABLE
from gateway.tenancy.paging import DEFAULT_LIMIT, MAX_LIMIT, Cursor, Page

T = TypeVar("T")
Answer = TypeVar("Answer", bound=Struct)

Limit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=MAX_LIMIT, description="most items wanted")
]
After: TypeAlias = Annotated[
    UUID | None, QueryParameter(description="last id of the previous page; unset: the first page")
]

NameFilter: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only items of this name; unset: all")
]


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list. If `has_more`, the next page is `after` the last item's id."""

    object: str = "list"
    data: list[T]
    has_more: bool


def to_answer(form: type[Answer], row: object, **computed: object) -> Answer:
    """The row as clients see it: the attributes named by the form, and the computed fields."""
    read = {name: getattr(row, name) for name in form.__struct_fields__ if name not in computed}
    return msgspec.convert(read | computed, form, from_attributes=True)


def listing(form: type[Answer], page: Page[Any]) -> Listing[Answer]:
    """A page of rows as clients see it."""
    return Listing(data=[to_answer(form, row) for row in page.items], has_more=page.more)


async def provide_cursor(limit: Limit = DEFAULT_LIMIT, after: After = None) -> Cursor:
    """Where a page starts: the dependency `cursor`."""
    return Cursor(limit, after)
