"""The cost of a request before its answer is generated."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import create_async_engine

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.usage.estimate import CostEstimate, CostEstimates
from gateway.usage.prices import NewPrice, Prices


def price(output: str, *, tier: str | None = None, begins: datetime | None = None) -> NewPrice:
    return NewPrice(
        model="model",
        service_tier=tier,
        input=Decimal("0.1"),
        cached_input=Decimal(0),
        output=Decimal(output),
        valid_from=begins,
    )


async def estimate(sessions: Sessions, tier: str = "default") -> CostEstimate | None:
    return await CostEstimates(sessions).estimate(
        "model", tier, prompt_tokens=30, answers=2, mean=10.26, p90=19.01
    )


async def test_every_answer_costs_and_the_prompt_once(sessions: Sessions) -> None:
    await Prices(sessions).set(price("0.3"), by="admin")
    assert await estimate(sessions) == CostEstimate("0.00000918", "0.000015")


async def test_tier_has_its_own_price(sessions: Sessions) -> None:
    await Prices(sessions).set(price("1", tier="batch"), by="admin")
    assert await estimate(sessions) is None
    await Prices(sessions).set(price("0"), by="admin")
    assert await estimate(sessions) == CostEstimate("0.000003", "0.000003")
    assert await estimate(sessions, "batch") == CostEstimate("0.0000236", "0.000043")


async def test_ended_and_future_prices_do_not_count(sessions: Sessions) -> None:
    prices = Prices(sessions)
    await prices.end((await prices.set(price("1"), by="admin")).id, by="admin")
    later = datetime.now(UTC) + timedelta(days=1)
    await prices.set(price("1", begins=later), by="admin")
    assert await estimate(sessions) is None


async def test_database_that_is_away_leaves_the_cost_out() -> None:
    away = Database(create_async_engine("postgresql+psycopg://lmaas@127.0.0.1:1/lmaas"))
    try:
        assert await estimate(away.sessions) is None
    finally:
        await away.close()
