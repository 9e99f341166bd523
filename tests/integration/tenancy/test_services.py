"""Tenants, apps and keys on a real database."""

from uuid import uuid4

import pytest
from sqlalchemy import select

from gateway.database.errors import Sessions
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.tenancy.apps import Apps
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.paging import Cursor
from gateway.tenancy.secret import digest
from gateway.tenancy.tenants import Tenants
from models import ApiKey
from tests.conftest import Builder


@pytest.fixture
def tenants(sessions: Sessions) -> Tenants:
    return Tenants(sessions)


async def test_pages_hold_every_item_once_in_order_of_creation(
    tenants: Tenants,
) -> None:
    made = [(await tenants.create(f"tenant {n}", by="admin")).id for n in range(5)]
    seen, after, more = [], None, True
    while more:
        page = await tenants.list(Cursor(2, after))
        seen += [tenant.id for tenant in page.items]
        after, more = seen[-1], page.more
    assert seen == made


async def test_empty_list_is_an_empty_page(tenants: Tenants) -> None:
    page = await tenants.list(Cursor())
    assert (page.items, page.more) == ([], False)


async def test_tenant_name_is_unique(tenants: Tenants) -> None:
    await tenants.create("acme", by="admin")
    with pytest.raises(Conflict, match="'acme' exists already"):
        await tenants.create("acme", by="admin")


async def test_app_name_is_unique_within_its_tenant(build: Builder) -> None:
    first, second = await build.tenant(), await build.tenant()
    await build.app(first, name="mail")
    with pytest.raises(Conflict, match="an app named 'mail' already"):
        await build.app(first, name="mail")
    assert (await build.app(second, name="mail")).tenant_id == second.id


@pytest.mark.parametrize("name", ["", " acme", "acme ", "a\0b", "a\nb", "x" * 101, "\ud800"])
async def test_invalid_name_is_refused_with_the_rule(tenants: Tenants, name: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 100 printable characters") as raised:
        await tenants.create(name, by="admin")
    assert raised.value.param == "name"


async def test_name_may_be_in_any_script(tenants: Tenants) -> None:
    assert (await tenants.create("Größe 大きさ", by="admin")).name == "Größe 大きさ"


@pytest.mark.parametrize("instruction", ["with\0nul", "x" * 100_001])
async def test_invalid_instruction_is_refused(build: Builder, instruction: str) -> None:
    with pytest.raises(InvalidRequest, match="instruction: at most"):
        await build.app(instruction=instruction)


async def test_missing_parents_are_named(sessions: Sessions, build: Builder) -> None:
    nowhere = uuid4()
    apps, keys = Apps(sessions), ApiKeys(sessions, build.authenticator)
    with pytest.raises(NotFound, match=f"no tenant {nowhere}"):
        await apps.create(nowhere, "mail", by="admin")
    with pytest.raises(NotFound, match=f"no tenant {nowhere}"):
        await apps.list(nowhere, Cursor())
    with pytest.raises(NotFound, match=f"no app {nowhere}"):
        await keys.create(nowhere, "key", by="admin")
    with pytest.raises(NotFound, match=f"no app {nowhere}"):
        await keys.list(nowhere, Cursor())
    with pytest.raises(NotFound, match=f"no key {nowhere}"):
        await keys.revoke(nowhere, by="admin")


async def test_only_digest_and_prefix_of_a_secret_are_stored(
    sessions: Sessions, build: Builder
) -> None:
    new = await build.key()
    async with sessions() as session:
        row = await session.scalar(select(ApiKey))
    assert row is not None
    assert row.digest == digest(new.secret)
    assert new.secret.startswith(row.prefix)
    assert len(row.prefix) < 16
    stored = [getattr(row, column.name) for column in ApiKey.__table__.columns]
    assert new.secret not in map(str, stored)


async def test_revoking_twice_keeps_the_first_time(sessions: Sessions, build: Builder) -> None:
    new = await build.key()
    keys = ApiKeys(sessions, build.authenticator)
    first = await keys.revoke(new.key.id, by="admin")
    second = await keys.revoke(new.key.id, by="admin")
    assert first.revoked_at is not None
    assert second.revoked_at == first.revoked_at


async def test_revoked_key_stays_in_the_list(sessions: Sessions, build: Builder) -> None:
    app = await build.app()
    kept, gone = await build.key(app), await build.key(app)
    keys = ApiKeys(sessions, build.authenticator)
    await keys.revoke(gone.key.id, by="admin")
    page = await keys.list(app.id, Cursor())
    assert [(key.id, key.revoked_at is None) for key in page.items] == [
        (kept.key.id, True),
        (gone.key.id, False),
    ]
