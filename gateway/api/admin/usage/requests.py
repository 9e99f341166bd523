"""`/admin/requests`: the finished requests of all gateways."""

from typing import Annotated, TypeAlias

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from gateway.api.admin.actor import area
from gateway.api.admin.usage.usage import OfApp, OfKey, OfTenant
from gateway.api.usage.answer import OfModel, OfTier, OfUser
from gateway.api.usage.request_list import (
    AfterPlace,
    ArrivedSince,
    ArrivedUntil,
    OfOutcome,
    RequestLimit,
    RequestListing,
    in_utc,
)
from gateway.history.listing import (
    MAX_TOKENS,
    MAX_WAIT_S,
    FinishedRequest,
    RequestFilter,
    RequestList,
)
from gateway.tenancy.scopes import Scope

LeastTokens: TypeAlias = Annotated[
    int | None,
    QueryParameter(ge=0, le=MAX_TOKENS, description="only answers of at least this many tokens"),
]
MostTokens: TypeAlias = Annotated[
    int | None,
    QueryParameter(ge=0, le=MAX_TOKENS, description="only answers of at most this many tokens"),
]
LeastWait: TypeAlias = Annotated[
    float | None,
    QueryParameter(
        ge=0, le=MAX_WAIT_S, description="only requests that waited at least this many seconds"
    ),
]
MostWait: TypeAlias = Annotated[
    float | None,
    QueryParameter(
        ge=0, le=MAX_WAIT_S, description="only requests that waited at most this many seconds"
    ),
]


class FinishedRequestsController(Controller):
    """Lists finished requests."""

    path = "/requests"
    opt = area(Scope.TENANTS)

    @get(summary="List finished requests")
    async def list_requests(
        self,
        finished: NamedDependency[RequestList],
        since: ArrivedSince = None,
        until: ArrivedUntil = None,
        tenant: OfTenant = None,
        app: OfApp = None,
        key: OfKey = None,
        user: OfUser = None,
        model: OfModel = None,
        tier: OfTier = None,
        outcome: OfOutcome = None,
        least_tokens: LeastTokens = None,
        most_tokens: MostTokens = None,
        least_wait_s: LeastWait = None,
        most_wait_s: MostWait = None,
        limit: RequestLimit = 20,
        after: AfterPlace = None,
    ) -> RequestListing[FinishedRequest]:
        """Requests of all gateways, newest first, some moments after they end.

        By length or wait a page may have few requests, even none, and another one follow.
        """
        wanted = RequestFilter(
            since=in_utc(since),
            until=in_utc(until),
            tenant=tenant,
            app=app,
            key=key,
            user=user,
            model=model,
            tier=tier,
            outcome=outcome,
            least_tokens=least_tokens,
            most_tokens=most_tokens,
            least_wait_s=least_wait_s,
            most_wait_s=most_wait_s,
        )
        page = await finished.read(wanted, limit=limit, after=after)
        return RequestListing(
            data=page.items, has_more=page.next_after is not None, next_after=page.next_after
        )
