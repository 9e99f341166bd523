"""`/admin/limits`: how much tenants, apps, keys, users and the node may use."""

from datetime import datetime
from typing import Annotated, Self, TypeAlias
from uuid import UUID

from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.envelope import Listing
from gateway.api.openapi import errors
from gateway.api.validation import STORABLE
from gateway.limits.limit import Effect, Kind, Level
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope
from gateway.usage.limits.limits import Limits, NamedLimit, NewLimit, kind_of, value_of

MAX_OWNER_CHARACTERS = 302  # three names with slashes between them

Owner: TypeAlias = Annotated[
    str,
    Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_OWNER_CHARACTERS}),
]
Value: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9]+(\.[0-9]{1,9})?$"})]
OfLevel: TypeAlias = Annotated[
    Level | None, QueryParameter(description="only limits of this level; unset: all")
]
OfOwner: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        pattern=STORABLE,
        description="only limits of this owner, by id or names; needs `level`",
    ),
]


class LimitRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A limit to set; one of the same owner, kind and effect changes its value.

    `owner` is an id, a tenant's name, TENANT/APP or TENANT/APP/KEY. A limit of level `user` holds
    for each user of the app `owner`; the node has no owner. `value` is in decimal notation, in a
    string: whole numbers of requests and tokens, money in the currency of the prices, or a share of
    the KV memory, at most 1.
    """

    level: Level
    owner: Owner | None = None
    kind: Kind
    value: Value
    effect: Effect = "hard"


class LimitAnswer(Struct, frozen=True, kw_only=True):
    """A limit. Its owner is null for the node, else TENANT, TENANT/APP or TENANT/APP/KEY."""

    id: UUID
    level: Level
    owner_id: UUID | None
    owner: str | None
    kind: Kind
    value: str
    effect: Effect
    changed_by: str
    changed_at: datetime

    @classmethod
    def of(cls, named: NamedLimit) -> Self:
        """The limit as clients see it."""
        limit = named.limit
        return cls(
            id=limit.id,
            level=limit.level,
            owner_id=limit.subject,
            owner=named.owner,
            kind=kind_of(limit),
            value=value_of(limit),
            effect=limit.effect,
            changed_by=named.changed_by,
            changed_at=named.changed_at,
        )


class LimitsController(Controller):
    """Sets, lists and removes limits."""

    path = "/limits"
    opt = area(Scope.TENANTS)

    @put(summary="Set a limit", responses=errors(404, 409))
    async def set_limit(
        self, data: JSONBody[LimitRequest], limits: NamedDependency[Limits], actor: Actor
    ) -> LimitAnswer:
        """The limit, which holds at once here, and within a second on other gateways.

        404 if there is no such owner; 409 if several have the name.
        """
        new = NewLimit(
            level=data.level,
            owner=data.owner,
            kind=data.kind,
            value=data.value,
            effect=data.effect,
        )
        return LimitAnswer.of(await limits.set(new, by=actor))

    @get(summary="List the limits", responses=errors(404, 409))
    async def list_limits(
        self,
        cursor: NamedDependency[Cursor],
        limits: NamedDependency[Limits],
        level: OfLevel = None,
        owner: OfOwner = None,
    ) -> Listing[LimitAnswer]:
        """Limits in the order in which they were first set; 404 if there is no such owner."""
        page = cursor.page(
            await limits.list(limit=cursor.limit + 1, after=cursor.after, level=level, owner=owner)
        )
        return Listing(data=[LimitAnswer.of(each) for each in page.items], has_more=page.more)

    @delete("/{limit_id:uuid}", status_code=200, summary="Remove a limit")
    async def remove_limit(
        self, limit_id: FromPath[UUID], limits: NamedDependency[Limits], actor: Actor
    ) -> LimitAnswer:
        """The limit, which no longer holds."""
        return LimitAnswer.of(await limits.remove(limit_id, by=actor))
