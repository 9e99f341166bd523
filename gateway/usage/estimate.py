"""What a request would cost by the price valid now, before its answer is generated."""

from datetime import UTC, datetime
from decimal import Decimal
from math import ceil
from typing import Final

import structlog
from msgspec import Struct

from gateway.database.errors import Sessions, transaction
from gateway.errors import DatabaseLost
from gateway.history.pricing import prices_since, valid_price
from gateway.usage.prices import money
from gateway.usage.report import PER_TOKEN

PRICE_WITHIN_S: Final = 2.0  # a prediction without a cost is of more use than a late one

log = structlog.get_logger()


class CostEstimate(Struct, frozen=True):
    """The cost of a request's answers, at their expected length and at its 90 % quantile.

    The whole prompt is counted at the input price: what will be cached is not known. With several
    answers, `p90` is for each of them at its quantile, which all together seldom reach.
    """

    expected: str
    p90: str


class CostEstimates:
    """Estimates costs by the prices in the database: one query each."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def estimate(
        self, model: str, tier: str, *, prompt_tokens: int, answers: int, mean: float, p90: float
    ) -> CostEstimate | None:
        """The cost at `mean` and `p90` tokens an answer.

        None if no price is valid now, or the database does not answer in time.
        """
        now = datetime.now(UTC)
        try:
            async with transaction(self._sessions, within_s=PRICE_WITHIN_S) as session:
                prices = await prices_since(session, {model}, now)
        except DatabaseLost as error:
            log.warning("cost_estimate_skipped", error=str(error))
            return None
        price = valid_price(prices, model, tier, now)
        if price is None:
            return None
        prompt = prompt_tokens * price.input
        expected = prompt + answers * Decimal(str(round(mean, 1))) * price.output
        upper = prompt + answers * ceil(p90) * price.output
        return CostEstimate(money(expected * PER_TOKEN), money(upper * PER_TOKEN))
