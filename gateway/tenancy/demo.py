"""The demo tenant that the first start creates, so that the API can be called at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.errors import Conflict
from gateway.history.audit import note
from gateway.tenancy.keys import key_row, note_created
from gateway.tenancy.secret import digest, new_secret
from gateway.tenancy.secret_file import read_secret, write_secret
from models import ApiKey, App, Tenant

TENANT: Final = "demo"
PLAYGROUND: Final = "playground"
STARTING: Final = "start"  # the actor in the audit trail: the gateway, as its settings say
ADDED_KEY: Final = "settings"
KEY_FILE: Final = "api_key"


def api_key_file(data_dir: Path) -> Path:
    """The file that keeps the key which the first start makes."""
    return data_dir.expanduser() / KEY_FILE


async def ensure_demo(
    sessions: Sessions,
    apps: Sequence[tuple[str, str]],
    given: str | None = None,
    file: Path | None = None,
) -> str | None:
    """Create the demo tenant unless it exists; the secret of its API key if it was created now.

    Once deleted, it stays so.

    The key belongs to the app `playground`, which has no registered instruction: each request
    brings its own system message. It is `given`, which is added to a tenant that exists, too, or a
    random one, which `file` keeps. Each (name, instruction) of `apps` becomes another app, without
    a key. StartupFailure if the file cannot be read or written.
    """
    kept = read_secret(file) if file else None
    secret = given or kept or new_secret()
    try:
        async with transaction(sessions) as session:
            named = select(Tenant.id, Tenant.deleted_at).where(Tenant.name == TENANT)
            found = (await session.execute(named.order_by(Tenant.id.desc()).limit(1))).first()
            if found is not None:
                if given and found.deleted_at is None:
                    await _add_key(session, found.id, given)
                return None
            await _create(session, apps, secret)
            if file and not given:
                write_secret(file, secret)  # before the commit: the key is never lost
    except Conflict:  # another gateway was faster
        return None
    return secret


async def _create(session: AsyncSession, apps: Sequence[tuple[str, str]], secret: str) -> None:
    tenant = Tenant(name=TENANT)
    session.add(tenant)
    await session.flush()
    playground = App(tenant_id=tenant.id, name=PLAYGROUND)
    session.add(playground)
    session.add_all(
        App(tenant_id=tenant.id, name=name, instruction=instruction) for name, instruction in apps
    )
    await session.flush()
    names = [PLAYGROUND, *(name for name, _ in apps)]
    note(session, STARTING, "tenant.created", tenant.id, after={"name": TENANT, "apps": names})
    key = key_row(playground.id, PLAYGROUND, secret)
    session.add(key)
    await note_created(session, key, STARTING)


async def _add_key(session: AsyncSession, tenant_id: UUID, secret: str) -> None:
    """Make the secret a key of the playground, unless it is one already, or was and is revoked."""
    if await session.scalar(select(ApiKey.id).where(ApiKey.digest == digest(secret))) is not None:
        return
    playground = select(App.id).where(
        App.tenant_id == tenant_id, App.name == PLAYGROUND, App.deleted_at.is_(None)
    )
    app_id = await session.scalar(playground)
    if app_id is not None:
        key = key_row(app_id, ADDED_KEY, secret)
        session.add(key)
        await note_created(session, key, STARTING)
