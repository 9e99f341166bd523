"""What a limit is: a bound on how much one subject may use."""

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

Level: TypeAlias = Literal["node", "tenant", "app", "key", "user"]
Quantity: TypeAlias = Literal["requests", "tokens", "cost", "kv_tokens"]
Period: TypeAlias = Literal["at_once", "minute", "day", "month"]
Mode: TypeAlias = Literal["hard", "soft", "warn"]

Amounts: TypeAlias = Mapping[Quantity, int]
"""Whole amounts by quantity. Cost is in billionths of the currency unit; what is absent is 0."""


class Limit(Struct, frozen=True, kw_only=True):
    """At most `amount` of a quantity in a period, for one subject of a level.

    `at_once` bounds what is in use at any moment, `minute` a rate, `day` and `month` are calendar
    periods in UTC. Beyond a `hard` limit a request is refused, beyond a `soft` one it waits behind
    lighter users, beyond a `warn` one it runs, and its response says so.

    `subject` is the id of a tenant, app or key; None for the node. A limit of level `user` bounds
    each user of the app `subject` by itself.
    """

    id: UUID
    level: Level
    subject: UUID | None
    quantity: Quantity
    period: Period
    amount: int
    mode: Mode = "hard"


class Subjects(Struct, frozen=True, kw_only=True):
    """Those whom a request counts for; `user` is the app's name of its user, if it gave one."""

    tenant: UUID
    app: UUID
    key: UUID
    user: str | None = None

    def bounded_by(self) -> Iterator[tuple[Level, UUID | None]]:
        """The levels and subjects whose limits count for the request."""
        yield "node", None
        yield "tenant", self.tenant
        yield "app", self.app
        yield "key", self.key
        if self.user is not None:
            yield "user", self.app
