"""`GET /v1/usage` and `/v1/requests`: what the caller's own key and tenant used."""

from typing import Any

from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.api.envelope import to_answer
from gateway.api.openapi import json_or_csv
from gateway.api.query import check_query
from gateway.api.usage.answer import (
    Days,
    Format,
    OfModel,
    OfTier,
    OfUser,
    OwnGroupBy,
    Since,
    Until,
    UsageAnswer,
    UsageLimit,
    UsageOffset,
    groups_of,
    usage_response,
)
from gateway.api.usage.request_list import (
    AfterPlace,
    ArrivedSince,
    ArrivedUntil,
    OfOutcome,
    OwnRequest,
    RequestLimit,
    RequestListing,
    in_utc,
)
from gateway.api.usage.request_status import RequestStatus
from gateway.generation.service import GenerationService
from gateway.history.listing import RequestFilter, RequestList
from gateway.history.requests import known_id
from gateway.tenancy.authentication import Caller
from gateway.usage.report import UsageFilter, UsageReport
from gateway.usage.request import RequestUsages


class OwnUsageController(Controller):
    """Shows the caller what it used."""

    @get(
        "/usage",
        summary="Sum the usage and cost of your key",
        responses=json_or_csv(UsageAnswer),
        before_request=check_query,
    )
    async def own_usage(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        usage: NamedDependency[UsageReport],
        since: Since = None,
        until: Until = None,
        group_by: OwnGroupBy = None,
        limit: UsageLimit = 100,
        offset: UsageOffset = 0,
        format: Format = None,  # noqa: A002  the parameter's name in the query
    ) -> Response[Any]:
        """Requests, tokens and exact cost; `group_by` takes day, user, model and tier."""
        days = Days.of(since, until)
        wanted = UsageFilter(
            since=days.since,
            until=days.until,
            tenant_id=caller.tenant_id,
            key_id=caller.api_key_id,
        )
        page = await usage.read(wanted, groups_of(group_by), limit=limit, offset=offset)
        return usage_response(request, format, days, page)

    @get("/requests", summary="List the finished requests of your key", before_request=check_query)
    async def list_requests(
        self,
        caller: NamedDependency[Caller],
        finished: NamedDependency[RequestList],
        since: ArrivedSince = None,
        until: ArrivedUntil = None,
        user: OfUser = None,
        model: OfModel = None,
        tier: OfTier = None,
        outcome: OfOutcome = None,
        limit: RequestLimit = 20,
        after: AfterPlace = None,
    ) -> RequestListing[OwnRequest]:
        """Requests sent with the key of the call, newest first, some moments after they end."""
        wanted = RequestFilter(
            since=in_utc(since),
            until=in_utc(until),
            key_id=caller.api_key_id,
            user=user,
            model=model,
            tier=tier,
            outcome=outcome,
        )
        page = await finished.read(wanted, limit=limit, after=after)
        return RequestListing(
            data=[to_answer(OwnRequest, item) for item in page.items],
            has_more=page.next_after is not None,
            next_after=page.next_after,
        )

    @get("/requests/{request_id:str}", summary="Show a request: its place, then what it used")
    async def show_request(
        self,
        request_id: FromPath[str],
        caller: NamedDependency[Caller],
        service: NamedDependency[GenerationService],
        usages: NamedDependency[RequestUsages],
    ) -> RequestStatus:
        """A request of your tenant: when it is expected to start and to end, while it waits or runs
        on this gateway; once it has ended, its tokens, cost and outcome over its choices.

        `request_id` may also be an answer's `id`. 404 for an unknown id or another tenant's, and
        for some moments after the request's end.
        """
        known = known_id(request_id)
        progress = service.scheduler.progress(known, caller.tenant_id)
        if progress is not None:
            return RequestStatus.of_progress(progress, service.model)
        return RequestStatus.of_usage(await usages.find(known, caller.tenant_id))
