"""Usage as JSON or CSV: query parameters and answers that `/admin/usage` and `/v1/usage` share."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import msgspec
from litestar import Request, Response
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.openapi import CSV
from gateway.api.usage.csv_text import csv_text
from gateway.api.validation import STORABLE
from gateway.usage.report import Group, Usage, UsagePage

JSON: Final = "application/json"
DEFAULT_DAYS: Final = 30
MAX_USAGE_LIMIT: Final = 1_000

Since: TypeAlias = Annotated[
    date | None, QueryParameter(description="first day, in UTC; unset: 30 days before `until`")
]
Until: TypeAlias = Annotated[
    date | None, QueryParameter(description="first day that is left out; unset: tomorrow")
]


def _grouping(*groups: Group) -> QueryParameter:
    """The query parameter `group_by` that takes these groups."""
    one = "|".join(groups)
    return QueryParameter(
        pattern=f"^(({one})(,({one}))*)?$",
        description=f"what to sum by, with commas: {', '.join(groups)}; unset: one sum",
    )


GroupBy: TypeAlias = Annotated[str | None, _grouping(*Group)]
OwnGroupBy: TypeAlias = Annotated[
    str | None, _grouping(Group.DAY, Group.USER, Group.MODEL, Group.TIER)
]
OfUser: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only this end user")
]
OfModel: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only this model")
]
OfTier: TypeAlias = Annotated[
    str | None,
    QueryParameter(pattern=STORABLE, description="only this service tier; `batch`: lines of jobs"),
]
UsageLimit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=MAX_USAGE_LIMIT, description="most sums wanted")
]
UsageOffset: TypeAlias = Annotated[
    int, QueryParameter(ge=0, le=10_000_000, description="number of sums to skip")
]
Format: TypeAlias = Annotated[
    Literal["json", "csv"] | None,
    QueryParameter(description="unset: CSV if `Accept` asks for text/csv, else JSON"),
]


class UsageAnswer(Struct, frozen=True, kw_only=True):
    """A page of sums over the UTC days from `since` until before `until`."""

    object: str = "list"
    since: date
    until: date
    data: list[Usage]
    has_more: bool


class Days(Struct, frozen=True):
    """The days from `since` until before `until`."""

    since: date
    until: date

    @classmethod
    def of(cls, since: date | None, until: date | None) -> Self:
        """The given days, by default the last 30 with today."""
        last = until or datetime.now(UTC).date() + timedelta(days=1)
        first = date.fromordinal(max(1, last.toordinal() - DEFAULT_DAYS))
        return cls(since or first, last)


def groups_of(given: str | None) -> list[Group]:
    """The groups of a valid `group_by`."""
    return [Group(name) for name in given.split(",")] if given else []


def usage_response(
    request: Request[Any, Any, Any], wanted: str | None, days: Days, page: UsagePage
) -> Response[Any]:
    """The page as `wanted`, or else as the request's `Accept` prefers."""
    if wanted is None:
        wanted = "csv" if request.accept.best_match([JSON, CSV], JSON) == CSV else "json"
    if wanted == "csv":
        more = {"x-lmaas-has-more": str(page.more).lower()}
        return Response(usage_csv(page), media_type=CSV, headers=more)
    return Response(
        UsageAnswer(since=days.since, until=days.until, data=page.items, has_more=page.more)
    )


def usage_csv(page: UsagePage) -> str:
    """A line for each sum, under a line of names; what is null is empty."""
    return csv_text([Usage.__struct_fields__, *map(msgspec.structs.astuple, page.items)])
