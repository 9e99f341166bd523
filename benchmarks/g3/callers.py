"""The tenants, apps, keys and prices of the history that is made."""

from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from msgspec import Struct

from gateway.database.errors import Sessions
from gateway.history.audit import note
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.tenants import Tenants
from models import Price

TENANTS: Final = 20
APPS: Final = 100
KEYS_PER_APP: Final = 2
USER_APPS_EVERY: Final = 5  # each fifth app names its end users
MODELS: Final = ("lmaas-demo", "smollm2", "qwen2")


class AppKey(Struct, frozen=True):
    """A key of an app; `rank` is the app's, 0 for the one with the most requests."""

    rank: int
    tenant: str
    tenant_id: UUID
    app_id: UUID
    key_id: UUID
    secret: str

    @property
    def names_users(self) -> bool:
        """Whether requests of the app have an end user."""
        return self.rank % USER_APPS_EVERY == 0


async def make_callers(sessions: Sessions) -> list[AppKey]:
    """Tenants with the same number of apps each, by the services that the admin API calls."""
    tenants = [await Tenants(sessions).create(f"tenant {n}", by="admin") for n in range(TENANTS)]
    keys, found = ApiKeys(sessions, Authenticator(sessions)), []
    for rank in range(APPS):
        tenant = tenants[rank % TENANTS]
        app = await Apps(sessions).create(tenant.id, f"app {rank // TENANTS}", by="admin")
        for number in range(KEYS_PER_APP):
            new = await keys.create(app.id, f"key {number}", by="admin")
            found.append(AppKey(rank, tenant.name, tenant.id, app.id, new.key.id, new.secret))
    return found


async def make_prices(sessions: Sessions, since: datetime) -> dict[str, UUID]:
    """A price for each model but the last, which stays unpriced."""
    async with sessions.begin() as session:
        prices = [
            Price(
                model=model,
                service_tier=None,
                input=Decimal("0.15"),
                cached_input=Decimal("0.075"),
                output=Decimal("0.6"),
                valid_from=since,
                valid_until=None,
                created_by="benchmark",
            )
            for model in MODELS[:-1]
        ]
        session.add_all(prices)
        note(session, "benchmark", "price.set", "all models")
    return {price.model: price.id for price in prices}
