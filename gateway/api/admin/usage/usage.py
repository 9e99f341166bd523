"""`/admin/usage`: usage and cost of tenants, apps, keys, users and models by day."""

from typing import Annotated, Any, TypeAlias

from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from gateway.api.admin.actor import area
from gateway.api.openapi import json_or_csv
from gateway.api.usage.answer import (
    Days,
    Format,
    GroupBy,
    OfModel,
    OfTier,
    OfUser,
    Since,
    Until,
    UsageAnswer,
    UsageLimit,
    UsageOffset,
    groups_of,
    usage_response,
)
from gateway.api.validation import STORABLE
from gateway.tenancy.scopes import Scope
from gateway.usage.report import UsageFilter, UsageReport

OfTenant: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only this tenant, by id or name")
]
OfApp: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only this app, by id or name")
]
OfKey: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only this API key, by id or name")
]


class UsageController(Controller):
    """Sums usage."""

    path = "/usage"
    opt = area(Scope.TENANTS)

    @get(summary="Sum usage and cost", responses=json_or_csv(UsageAnswer))
    async def show_usage(
        self,
        request: Request[Any, Any, Any],
        usage: NamedDependency[UsageReport],
        since: Since = None,
        until: Until = None,
        group_by: GroupBy = None,
        tenant: OfTenant = None,
        app: OfApp = None,
        key: OfKey = None,
        user: OfUser = None,
        model: OfModel = None,
        tier: OfTier = None,
        limit: UsageLimit = 100,
        offset: UsageOffset = 0,
        format: Format = None,  # noqa: A002  the parameter's name in the query
    ) -> Response[Any]:
        """Requests, tokens and exact cost of all gateways, some moments after requests end.

        In CSV, the header `x-lmaas-has-more` says whether there are more sums.
        """
        days = Days.of(since, until)
        wanted = UsageFilter(
            since=days.since,
            until=days.until,
            tenant=tenant,
            app=app,
            key=key,
            user=user,
            model=model,
            tier=tier,
        )
        page = await usage.read(wanted, groups_of(group_by), limit=limit, offset=offset)
        return usage_response(request, format, days, page)
