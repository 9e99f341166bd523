"""What a limit is: a bound on how much one subject may use."""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

Level: TypeAlias = Literal["node", "tenant", "app", "key", "user"]
Quantity: TypeAlias = Literal["requests", "tokens", "cost", "kv_share"]
Period: TypeAlias = Literal["at_once", "minute", "day", "month"]
Effect: TypeAlias = Literal["hard", "soft", "warn"]
Kind: TypeAlias = Literal[
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "kv_share",
    "tokens_per_day",
    "tokens_per_month",
    "cost_per_day",
    "cost_per_month",
]

Amounts: TypeAlias = Mapping[Quantity, int]
"""Whole amounts by quantity; what is absent is 0.

Cost is in billionths of the currency unit, a share of KV memory in billionths of the memory.
"""

BILLIONTHS: Final = 1_000_000_000
UNITS: Final[dict[Quantity, int]] = {
    "requests": 1,
    "tokens": 1,
    "cost": BILLIONTHS,
    "kv_share": BILLIONTHS,
}
"""What an amount of 1 of each quantity, as people write it, is in whole amounts."""

BOUNDED: Final[dict[Kind, tuple[Quantity, Period]]] = {
    "requests_per_minute": ("requests", "minute"),
    "tokens_per_minute": ("tokens", "minute"),
    "concurrent_requests": ("requests", "at_once"),
    "kv_share": ("kv_share", "at_once"),
    "tokens_per_day": ("tokens", "day"),
    "tokens_per_month": ("tokens", "month"),
    "cost_per_day": ("cost", "day"),
    "cost_per_month": ("cost", "month"),
}
"""What each kind of limit bounds, in which period."""

KINDS: Final = {bounded: kind for kind, bounded in BOUNDED.items()}


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
    effect: Effect = "hard"

    @property
    def kind(self) -> str:
        """The name of what it bounds, such as `tokens_per_day`."""
        return KINDS.get((self.quantity, self.period), f"{self.quantity}_per_{self.period}")

    @property
    def is_budget(self) -> bool:
        """Whether it bounds a calendar period: then answers do not go on beyond it."""
        return self.period in {"day", "month"}


class Standing(Struct, frozen=True):
    """How a limit stands: its amount, what is left, and the seconds until more is."""

    limit: int
    remaining: int
    reset_s: float


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
