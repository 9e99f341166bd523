"""Limits as a running gateway keeps them: followed, and leased where others share them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from gateway.database.errors import Sessions
from gateway.limits.hold_ledger import HoldLedger
from gateway.limits.leased_accounts import open_leased
from gateway.usage.limits.follower import LimitFollower
from gateway.usage.limits.lessor import Lessor
from gateway.usage.price_list import PriceList


class RunningLimits(Struct, frozen=True):
    """The accounts of the limits, the prices, what follows both, and what leases."""

    ledger: HoldLedger
    prices: PriceList
    follower: LimitFollower
    lessor: Lessor


@asynccontextmanager
async def running_limits(
    sessions: Sessions, database_url: str, *, model: str
) -> AsyncIterator[RunningLimits]:
    """Limits and prices as they are in the database. On exit all leases end. DatabaseLost."""
    ledger, prices = HoldLedger((), open_leased), PriceList(model)
    follower = LimitFollower(sessions, ledger, prices, database_url, model=model)
    await follower.start()
    lessor = Lessor(sessions, ledger)
    lessor.start()
    try:
        yield RunningLimits(ledger, prices, follower, lessor)
    finally:
        await lessor.close()
        await follower.close()
