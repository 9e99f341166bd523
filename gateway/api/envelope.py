"""Lists as clients read them, in OpenAI's form."""

from typing import Annotated, Generic, Self, TypeAlias, TypeVar
from uuid import UUID

from litestar.params import QueryParameter
from msgspec import Struct

from gateway.tenancy.paging import DEFAULT, MOST, Cursor

T = TypeVar("T")

Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=MOST, description="most items wanted")]
After: TypeAlias = Annotated[
    UUID | None, QueryParameter(description="last id of the page before; unset: the first")
]


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list. While `has_more`, the next page is the one after the last item's id."""

    object: str = "list"
    data: list[T]
    has_more: bool

    @classmethod
    def cut(cls, items: list[T], limit: int) -> Self:
        """At most `limit` of the items; one beyond tells that there are more."""
        return cls(data=items[:limit], has_more=len(items) > limit)


async def provide_cursor(limit: Limit = DEFAULT, after: After = None) -> Cursor:
    """Where a page starts: the dependency `cursor`."""
    return Cursor(limit, after)
