"""`/admin/prices`: what tokens cost, and when."""

from datetime import datetime
from typing import Annotated, Self, TypeAlias
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.admin.fields import Name
from gateway.api.envelope import Listing
from gateway.api.openapi import errors
from gateway.api.validation import STORABLE
from gateway.tenancy.naming import checked_name
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope
from gateway.usage.prices import AMOUNT, NewPrice, Prices, amount, money
from models import Price

Amount: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": f"^{AMOUNT.pattern}$"})]
Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
OfModel: TypeAlias = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only this model's prices")
]


class PriceRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A price per million tokens, as decimal notation in a string, such as `"0.15"`.

    `cached_input` is `input` if unset. Without `service_tier` the price is of every tier that has
    none of its own. `valid_from` is by default now, `valid_until` never.
    """

    model: Name
    service_tier: Name | None = None
    input: Amount
    cached_input: Amount | None = None
    output: Amount
    valid_from: Time | None = None
    valid_until: Time | None = None

    def to_new(self) -> NewPrice:
        """The price with exact amounts. InvalidRequest."""
        paid = amount(self.input, "input")
        cached = self.cached_input
        return NewPrice(
            model=checked_name(self.model),
            service_tier=None if self.service_tier is None else checked_name(self.service_tier),
            input=paid,
            cached_input=paid if cached is None else amount(cached, "cached_input"),
            output=amount(self.output, "output"),
            valid_from=self.valid_from,
            valid_until=self.valid_until,
        )


class PriceAnswer(Struct, frozen=True, kw_only=True):
    """A price per million tokens; `valid_until` null: without end."""

    id: UUID
    model: str
    service_tier: str | None
    input: str
    cached_input: str
    output: str
    valid_from: datetime
    valid_until: datetime | None
    created_by: str

    @classmethod
    def of(cls, price: Price) -> Self:
        """The price as clients see it."""
        return cls(
            id=price.id,
            model=price.model,
            service_tier=price.service_tier,
            input=money(price.input),
            cached_input=money(price.cached_input),
            output=money(price.output),
            valid_from=price.valid_from,
            valid_until=price.valid_until,
            created_by=price.created_by,
        )


class PricesController(Controller):
    """Sets, lists and ends prices."""

    path = "/prices"
    opt = area(Scope.TENANTS)

    @post(summary="Set a price", responses=errors(409))
    async def set_price(
        self, data: JSONBody[PriceRequest], prices: NamedDependency[Prices], actor: Actor
    ) -> PriceAnswer:
        """The new price; the one that was valid before ends where it begins.

        It applies to requests that arrive from `valid_from` on, which is not in the past. 409 if a
        later price of this model and tier begins before its end.
        """
        return PriceAnswer.of(await prices.set(data.to_new(), by=actor))

    @get(summary="List the prices")
    async def list_prices(
        self,
        cursor: NamedDependency[Cursor],
        prices: NamedDependency[Prices],
        model: OfModel = None,
    ) -> Listing[PriceAnswer]:
        """Prices, past and future ones too, in the order in which they were set."""
        page = cursor.page(
            await prices.list(limit=cursor.limit + 1, after=cursor.after, model=model)
        )
        return Listing(data=[PriceAnswer.of(price) for price in page.items], has_more=page.more)

    @delete("/{price_id:uuid}", status_code=200, summary="End a price")
    async def end_price(
        self, price_id: FromPath[UUID], prices: NamedDependency[Prices], actor: Actor
    ) -> PriceAnswer:
        """The price, valid until now; one that has not begun is gone. Costs stay as they were."""
        return PriceAnswer.of(await prices.end(price_id, by=actor))
