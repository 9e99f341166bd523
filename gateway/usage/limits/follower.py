"""Follows limits and prices in the database, so that changes hold on every gateway at once."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.database.notify import LIMITS, POLL_S, Subscription
from gateway.errors import DatabaseLost
from gateway.history.pricing import prices_since
from gateway.limits.hold_ledger import HoldLedger
from gateway.usage.limits.limits import as_limit, readable
from gateway.usage.price_list import PriceList
from models import StoredLimit

log = structlog.get_logger()


class LimitFollower:
    """Keeps a ledger's limits and a model's price list as they are in the database."""

    def __init__(
        self,
        sessions: Sessions,
        ledger: HoldLedger,
        prices: PriceList,
        database_url: str,
        *,
        model: str,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is in seconds of the epoch."""
        self._sessions = sessions
        self.ledger = ledger
        self.prices = prices
        self._model = model
        self._clock = clock
        self._reading = asyncio.Lock()  # what is adopted last was read last
        self._subscription = Subscription(database_url, LIMITS, self.follow, poll_s=poll_s)

    async def start(self) -> None:
        """Read limits and prices, then follow changes in the background. DatabaseLost."""
        await self._read()
        self._subscription.start("limit follower")

    async def close(self) -> None:
        """Stop following."""
        await self._subscription.close()

    async def follow(self) -> None:
        """Read limits and prices again; if the database is away, those in use stay."""
        try:
            await self._read()
        except DatabaseLost as error:
            log.warning("limits_not_followed", reason=error.message)

    async def _read(self) -> None:
        async with self._reading, transaction(self._sessions) as session:
            rows = await session.scalars(select(StoredLimit).order_by(StoredLimit.id))
            limits = [as_limit(row) for row in readable(rows)]
            now_s = self._clock()
            prices = await prices_since(session, {self._model}, datetime.fromtimestamp(now_s, UTC))
            self.ledger.use(limits)
            self.ledger.forget_idle(now_s)
            self.prices.use(prices)
