"""The tenant that a first start makes, so that there is something to call."""

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
    sessions: Sessions, jobs: Sequence[tuple[str, str]], secret: str | None = None
) -> str | None:
    """Make the demo tenant unless there is one, and return its key's secret if it was made now.

    The key, `secret` or a random one, belongs to the app `playground`, which has no instruction
    of its own: the request's system message says the job. Beside it stands an app for every
    (name, instruction) of `jobs`, with the instruction registered and without a key.
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
                for name, instruction in jobs
            )
            await session.flush()
            session.add(key_row(playground.id, PLAYGROUND, secret))
    except Conflict:  # another gateway was faster
        return None
    return secret
