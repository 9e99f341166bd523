"""The demo tenant that the first start creates, so that the API can be called at once."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.errors import Conflict
from gateway.tenancy.keys import key_row
from gateway.tenancy.secret import new_secret
from models import App, Tenant

TENANT: Final = "demo"
PLAYGROUND: Final = "playground"


async def ensure_demo(
    sessions: Sessions, apps: Sequence[tuple[str, str]], secret: str | None = None
) -> str | None:
    """Create the demo tenant unless it exists; the secret of its API key if it was created now.

    The key, `secret` or a random one, belongs to the app `playground`, which has no registered
    instruction: each request brings its own system message. Each (name, instruction) of `apps`
    becomes another app, without a key.
    """
    secret = secret or new_secret()
    try:
        async with transaction(sessions) as session:
            if await session.scalar(select(Tenant.id).where(Tenant.name == TENANT)) is not None:
                return None
            tenant = Tenant(name=TENANT)
            session.add(tenant)
            await session.flush()
            playground = App(tenant_id=tenant.id, name=PLAYGROUND)
            session.add(playground)
            session.add_all(
                App(tenant_id=tenant.id, name=name, instruction=instruction)
                for name, instruction in apps
            )
            await session.flush()
            session.add(key_row(playground.id, PLAYGROUND, secret))
    except Conflict:  # another gateway was faster
        return None
    return secret
