"""The prices of one model in memory, so that no request needs a query for its cost."""

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.history.pricing import valid_price
from gateway.limits.limit import BILLIONTHS
from gateway.limits.token_cost import TokenCost
from gateway.usage.report import PER_TOKEN
from models import Price


class PriceList:
    """The prices that are valid now or later. What has no price costs nothing."""

    def __init__(self, model: str, prices: Sequence[Price] = ()) -> None:
        self._model = model
        self._prices = prices

    def use(self, prices: Sequence[Price]) -> None:
        """Adopt the prices as they are now."""
        self._prices = prices

    def cost(self, tier: str, at_s: float) -> TokenCost:
        """The cost of a token in this tier for a request that arrives then, in epoch seconds.

        A hold counts the whole prompt at the input price: what will be cached is not known.
        """
        at = datetime.fromtimestamp(at_s, UTC)
        price = valid_price(self._prices, self._model, tier, at)
        if price is None:
            return TokenCost()
        unit = PER_TOKEN * BILLIONTHS
        return TokenCost(
            prompt=price.input * unit,
            cached=price.cached_input * unit,
            generated=price.output * unit,
        )
