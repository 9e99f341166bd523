"""What one request holds of its limits, from its admission to the end of its last choice."""

from collections.abc import Mapping
from math import ceil
from typing import Final

from gateway.limits.limit import BILLIONTHS, Amounts, Limit, Quantity, Standing
from gateway.limits.token_cost import TokenCost

SOFT_WEIGHT: Final = 16.0  # beyond a soft limit a token is charged this many times


class RequestHold:
    """Amounts of a request, and how it stands; its choices share it.

    `beyond` are the soft and warning limits that it exceeds, `standings` how the hard limits on
    requests and tokens stood at its admission. `bounded` is whether any limit concerns it.
    """

    def __init__(
        self, *, prompt_tokens: int, choices: int, answer_tokens: int, cost: TokenCost, pool: int
    ) -> None:
        """`answer_tokens` are held for each choice; `pool` is the KV memory in tokens."""
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        self.open_choices = choices
        self.cost = cost
        self.unit: Amounts = {
            "tokens": 1,
            "cost": ceil(cost.generated),
            "kv_share": ceil(BILLIONTHS / pool) if pool else 0,
        }
        self.beyond: tuple[Limit, ...] = ()
        self.standings: Mapping[Quantity, Standing] = {}
        self.bounded = False
        self.read_tokens = 0  # of its prompt, once it is known to be read
        self.cached_tokens = 0  # of these, not computed
        self.written_tokens = 0  # of its choices that have ended

    def amounts(self, answer_tokens: int) -> Amounts:
        """What the request uses if each open choice gets this many tokens."""
        written = self.open_choices * answer_tokens
        return {
            "requests": 1,
            "tokens": self.prompt_tokens + written,
            "cost": self.cost.of(self.prompt_tokens, 0) + written * self.unit["cost"],
            "kv_share": (self.prompt_tokens + written) * self.unit["kv_share"],
        }

    @property
    def used(self) -> Amounts:
        """What its choices that have ended used."""
        return {
            "requests": 1,
            "tokens": self.read_tokens + self.written_tokens,
            "cost": self.cost.of(self.read_tokens, self.written_tokens, self.cached_tokens),
        }

    @property
    def waiting_weight(self) -> float:
        """How much a second of its waiting counts against others of its tenant."""
        return 1 / SOFT_WEIGHT if self._yields_within else 1.0

    @property
    def surcharge(self) -> float:
        """How many times a token is charged to its tenant; its waiting weight is made up for."""
        yields_to_tenants = any(
            limit.effect == "soft" and limit.level == "tenant" for limit in self.beyond
        )
        return (SOFT_WEIGHT if yields_to_tenants else 1.0) / self.waiting_weight

    @property
    def _yields_within(self) -> bool:
        return any(
            limit.effect == "soft" and limit.level in {"app", "key", "user"}
            for limit in self.beyond
        )
