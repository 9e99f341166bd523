"""Lists of finished requests: query parameters and answers that `/admin` and `/v1` share."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.validation import STORABLE
from gateway.history.listing import Outcome

T = TypeVar("T")

MAX_REQUEST_LIMIT: Final = 100

ArrivedSince: TypeAlias = Annotated[
    datetime | None,
    QueryParameter(description="only requests that arrived then or later; UTC without a zone"),
]
ArrivedUntil: TypeAlias = Annotated[
    datetime | None,
    QueryParameter(description="only requests that arrived before then; UTC without a zone"),
]
OfOutcome: TypeAlias = Annotated[
    Outcome | None, QueryParameter(description="only requests with this `finish_reason`")
]
RequestLimit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=MAX_REQUEST_LIMIT, description="most requests wanted")
]
AfterPlace: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        pattern=STORABLE, description="`next_after` of the previous page; unset: the first page"
    ),
]


class RequestListing(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of finished requests, newest first; the next page is `after` `next_after`."""

    object: str = "list"
    data: Sequence[T]
    has_more: bool
    next_after: str | None


class OwnRequest(Struct, frozen=True, kw_only=True):
    """A finished request of the caller's key; times are seconds from its arrival.

    Each further choice of a request is an item of its own, with the request's id as `first_id`.
    """

    id: UUID
    first_id: UUID | None
    arrived_at: datetime
    user: str | None
    model: str
    service_tier: str | None
    deadline_s: float | None
    streamed: bool
    prompt_tokens: int
    cached_tokens: int | None
    generation_tokens: int
    max_tokens: int
    finish_reason: str
    waited_s: float
    first_token_s: float | None
    response_s: float


def in_utc(given: datetime | None) -> datetime | None:
    """The time, of UTC if it names no zone."""
    return given if given is None or given.tzinfo else given.replace(tzinfo=UTC)
