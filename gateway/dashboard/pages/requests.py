"""Requests: the finished ones, by filters, and as CSV."""

import csv
import io
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream
from msgspec import Struct

from gateway.api.usage.request_list import in_utc
from gateway.api.validation import STORABLE
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewer
from gateway.dashboard.charts.length_bar import LengthBar, LengthScale
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import page
from gateway.errors import InvalidRequest
from gateway.history.listing import FinishedRequest, Outcome, RequestFilter, RequestList
from gateway.quantiles import MEDIAN, P90
from gateway.tenancy.scopes import Scope

ROWS: Final = 50
CSV_ROWS: Final = 10_000
CSV_PAGE: Final = 200  # rows: some milliseconds
OUTCOMES: Final[tuple[Outcome, ...]] = ("stop", "length", "cancelled", "error", "lost")
COLUMNS: Final = (
    *("id", "arrived_at", "tenant", "app", "key", "user", "model", "service_tier", "streamed"),
    *("prompt_tokens", "cached_tokens", "generation_tokens", "max_tokens", "finish_reason"),
    *("prediction_source", "waited_s", "first_token_s", "response_s", "preemptions"),
)
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins to compute
MAX_TEXT: Final = 300

Text = Annotated[str | None, QueryParameter(pattern=STORABLE, max_length=MAX_TEXT)]


class Wanted(Struct, frozen=True):
    """The fields of the form, as they were sent."""

    tenant: str = ""
    app: str = ""
    user: str = ""
    outcome: str = ""
    since: str = ""
    until: str = ""

    def filter(self, viewer: Viewer) -> RequestFilter:
        """The requests that are wanted; an app's key sees its own alone. InvalidRequest."""
        caller = viewer.caller
        outcome = next((each for each in OUTCOMES if each == self.outcome), None)
        if self.outcome and outcome is None:
            accepted = ", ".join(OUTCOMES)
            raise InvalidRequest(f"outcome: accepted are {accepted}", param="outcome")
        return RequestFilter(
            since=_moment("since", self.since),
            until=_moment("until", self.until),
            tenant=(self.tenant or None) if caller is None else None,
            app=(self.app or None) if caller is None else None,
            key_id=None if caller is None else caller.api_key_id,
            user=self.user or None,
            outcome=outcome,
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
    since: Text = None,
    until: Text = None,
) -> Wanted:
    """The dependency `wanted`: the fields of the form."""
    given = (tenant, app, user, outcome, since, until)
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
        found = await finished.read(wanted.filter(viewer), limit=ROWS, after=after or None)
        scale = LengthScale(max((each.max_tokens for each in found.items), default=1))
        following = f"{wanted.query}&after={found.next_after}" if found.next_after else None
        return page(
            "requests.html",
            viewer,
            session,
            path=self.path,
            wanted=wanted,
            outcomes=OUTCOMES,
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
        """The newest requests as CSV, at most `CSV_ROWS`."""
        named = datetime.now(UTC).strftime("requests-%Y%m%d-%H%M%S.csv")
        return Stream(
            _csv(finished, wanted.filter(viewer)),
            media_type="text/csv; charset=utf-8",
            headers={**HEADERS, "content-disposition": f'attachment; filename="{named}"'},
        )


def _row(it: FinishedRequest, scale: LengthScale) -> Row:
    low, median, high = it.quantiles[0], it.quantiles[MEDIAN], it.quantiles[P90]
    return Row(it, LengthBar(scale, low, median, high, it.generation_tokens))


async def _csv(finished: RequestList, wanted: RequestFilter) -> AsyncGenerator[str, None]:
    """The rows as text, a page at a time."""
    yield _lines([COLUMNS])
    after, left = None, CSV_ROWS
    while left > 0:
        found = await finished.read(wanted, limit=min(CSV_PAGE, left), after=after)
        yield _lines([[_cell(getattr(each, name)) for name in COLUMNS] for each in found.items])
        left -= len(found.items)
        after = found.next_after
        if after is None:
            return


def _lines(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value.isoformat() if isinstance(value, datetime) else value


def _moment(name: str, given: str) -> datetime | None:
    if not given:
        return None
    try:
        return in_utc(datetime.fromisoformat(given))
    except ValueError as error:
        raise InvalidRequest(
            f"{name}: accepted is a time like 2026-01-31T09:00", param=name
        ) from error
