"""Requests: the finished ones, by filters, and as CSV."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlencode

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream
from msgspec import Struct

from gateway.api.usage.csv_text import csv_text
from gateway.api.validation import STORABLE
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewer
from gateway.dashboard.charts.length_bar import LengthBar, LengthScale
from gateway.dashboard.pages.fields import choice_field, number_field, time_field
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import page
from gateway.history.listing import (
    MAX_TOKENS,
    MAX_WAIT_S,
    FinishedRequest,
    Outcome,
    RequestFilter,
    RequestList,
)
from gateway.quantiles import MEDIAN, P90
from gateway.tenancy.scopes import Scope

ROWS: Final = 50
CSV_ROWS: Final = 10_000
CSV_PAGE: Final = 200  # rows: some milliseconds
CSV_PAGES: Final = 500  # by length or wait, pages may have few rows
OUTCOMES: Final[tuple[Outcome, ...]] = ("stop", "length", "cancelled", "error", "lost")
COLUMNS: Final = (
    *("id", "arrived_at", "tenant", "app", "key", "user", "model", "service_tier", "streamed"),
    *("prompt_tokens", "cached_tokens", "generation_tokens", "max_tokens", "finish_reason"),
    *("prediction_source", "waited_s", "first_token_s", "response_s", "preemptions"),
)
MAX_TEXT: Final = 300


class Span(NamedTuple):
    """A time before now, in words."""

    words: str
    length: timedelta


WITHIN: Final = {
    "1h": Span("last hour", timedelta(hours=1)),
    "24h": Span("last 24 hours", timedelta(hours=24)),
    "7d": Span("last 7 days", timedelta(days=7)),
    "30d": Span("last 30 days", timedelta(days=30)),
}
# Queries that many look for; a viewer's own are bookmarks. The fields are in the order of `Wanted`.
VIEWS: Final = {
    "within=24h&wait_from=10": "waited 10 s or more",
    "within=24h&tokens_from=1000": "1,000 tokens or more",
    "outcome=length&within=24h": "cut off at the limit",
    "outcome=error&within=24h": "failed",
    "outcome=cancelled&within=24h": "cancelled",
}

Text = Annotated[str | None, QueryParameter(pattern=STORABLE, max_length=MAX_TEXT)]


class Wanted(Struct, frozen=True):
    """The fields of the form, as they were sent."""

    tenant: str = ""
    app: str = ""
    user: str = ""
    outcome: str = ""
    within: str = ""
    since: str = ""
    until: str = ""
    tokens_from: str = ""
    tokens_to: str = ""
    wait_from: str = ""
    wait_to: str = ""

    def filter(self, viewer: Viewer, now: datetime) -> RequestFilter:
        """The requests that are wanted; an app's key sees its own alone. InvalidRequest."""
        caller = viewer.caller
        within = choice_field("within", self.within, ("", *WITHIN))
        outcome = choice_field("outcome", self.outcome, ("", *OUTCOMES))
        begins = [time_field("since", self.since)]
        if within:
            begins.append(now - WITHIN[within].length)
        return RequestFilter(
            since=max((each for each in begins if each is not None), default=None),
            until=time_field("until", self.until),
            tenant=(self.tenant or None) if caller is None else None,
            app=(self.app or None) if caller is None else None,
            key_id=None if caller is None else caller.api_key_id,
            user=self.user or None,
            outcome=next((each for each in OUTCOMES if each == outcome), None),
            least_tokens=_tokens("tokens_from", self.tokens_from),
            most_tokens=_tokens("tokens_to", self.tokens_to),
            least_wait_s=number_field("wait_from", self.wait_from, 0, MAX_WAIT_S),
            most_wait_s=number_field("wait_to", self.wait_to, 0, MAX_WAIT_S),
        )

    @property
    def query(self) -> str:
        """The fields that are set, for addresses."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return urlencode({name: value for name, value in fields.items() if value})


class Row(Struct, frozen=True):
    """A finished request, and its predicted and actual length."""

    it: FinishedRequest
    bar: LengthBar


async def provide_wanted(
    tenant: Text = None,
    app: Text = None,
    user: Text = None,
    outcome: Text = None,
    within: Text = None,
    since: Text = None,
    until: Text = None,
    tokens_from: Text = None,
    tokens_to: Text = None,
    wait_from: Text = None,
    wait_to: Text = None,
) -> Wanted:
    """The dependency `wanted`: the fields of the form."""
    times = (within, since, until)
    ranges = (tokens_from, tokens_to, wait_from, wait_to)
    given = (tenant, app, user, outcome, *times, *ranges)
    return Wanted(*((each or "").strip() for each in given))


class RequestsController(Controller):
    """Lists finished requests; keys of apps see their own."""

    path = "/page/requests"
    opt = page_of(Scope.TENANTS, own=True)

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        finished: NamedDependency[RequestList],
        wanted: NamedDependency[Wanted],
        after: Text = None,
    ) -> Response[str]:
        """The page."""
        filters = wanted.filter(viewer, datetime.now(UTC))
        found = await finished.read(filters, limit=ROWS, after=after or None)
        scale = LengthScale(max((each.max_tokens for each in found.items), default=1))
        following = f"{wanted.query}&after={found.next_after}" if found.next_after else None
        return page(
            "requests.html",
            viewer,
            session,
            path=self.path,
            wanted=wanted,
            outcomes=OUTCOMES,
            spans=WITHIN,
            views=VIEWS,
            rows=[_row(each, scale) for each in found.items],
            scale=scale,
            first_page=after is None,
            following=following,
            named=viewer.tenant is None,
        )

    @get("/csv")
    async def download(
        self,
        viewer: Looking,
        finished: NamedDependency[RequestList],
        wanted: NamedDependency[Wanted],
    ) -> Stream:
        """The newest requests that are wanted as CSV, at most `CSV_ROWS`."""
        now = datetime.now(UTC)
        named = now.strftime("requests-%Y%m%d-%H%M%S.csv")
        return Stream(
            _csv(finished, wanted.filter(viewer, now)),
            media_type="text/csv; charset=utf-8",
            headers={**HEADERS, "content-disposition": f'attachment; filename="{named}"'},
        )


def _row(it: FinishedRequest, scale: LengthScale) -> Row:
    low, median, high = it.quantiles[0], it.quantiles[MEDIAN], it.quantiles[P90]
    return Row(it, LengthBar(scale, low, median, high, it.generation_tokens))


async def _csv(finished: RequestList, wanted: RequestFilter) -> AsyncGenerator[str, None]:
    """The rows as text, a page at a time."""
    yield csv_text([COLUMNS])
    after, left = None, CSV_ROWS
    for _ in range(CSV_PAGES):
        found = await finished.read(wanted, limit=min(CSV_PAGE, left), after=after)
        yield csv_text([[getattr(each, name) for name in COLUMNS] for each in found.items])
        left -= len(found.items)
        after = found.next_after
        if after is None or not left:
            return


def _tokens(name: str, given: str) -> int | None:
    value = number_field(name, given, 0, MAX_TOKENS)
    return None if value is None else round(value)
