"""Lists in pages, in the order things were made."""

from typing import Final, Generic, TypeVar
from uuid import UUID

from msgspec import Struct

MOST: Final = 100
DEFAULT: Final = 20

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """Some of a list, oldest first; the next page starts after the last one's id."""

    items: list[T]
    more: bool


class Cursor(Struct, frozen=True):
    """Where a page starts, and how many it may hold."""

    limit: int = DEFAULT
    after: UUID | None = None

    def page(self, items: list[T]) -> Page[T]:
        """`items` as a page; one beyond `limit` tells that there are more."""
        return Page(items[: self.limit], len(items) > self.limit)
