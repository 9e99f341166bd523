"""`/admin/requests`: the finished requests of all gateways."""

from litestar import Controller, get
from litestar.di import NamedDependency

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
from gateway.history.listing import FinishedRequest, RequestFilter, RequestList
from gateway.tenancy.scopes import Scope


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
        limit: RequestLimit = 20,
        after: AfterPlace = None,
    ) -> RequestListing[FinishedRequest]:
        """Requests of all gateways, newest first, some moments after they end."""
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
        )
        page = await finished.read(wanted, limit=limit, after=after)
        return RequestListing(
            data=page.items, has_more=page.next_after is not None, next_after=page.next_after
        )
