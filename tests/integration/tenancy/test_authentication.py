"""Authentication with a real database, reachable and not."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, update

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import Conflict, DatabaseLost, Unauthenticated
from gateway.tenancy import authentication, lookup
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.demo import ensure_demo
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.secret import new_secret
from gateway.tenancy.tenants import Tenants
from models import ApiKey
from tests.conftest import PATIENCE_S, Builder
from tests.integration.tenancy.conftest import DatabaseProxy


class Clock:
    """A clock that a test sets, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's database is not away."""
    monkeypatch.setattr(authentication, "KNOWN_KEY_WAIT_S", PATIENCE_S)


@pytest.fixture
def authenticator(sessions: Sessions, clock: Clock) -> Iterator[Authenticator]:
    made = Authenticator(sessions, key_lookup_s=PATIENCE_S, clock=clock)
    yield made
    made.check()


@contextmanager
def recorded_statements(database: Database) -> Iterator[list[str]]:
    """The statements sent inside the block."""
    statements: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def test_valid_key_names_its_app_and_tenant(
    build: Builder, authenticator: Authenticator
) -> None:
    tenant = await build.tenant("acme")
    app = await build.app(tenant, name="mail", instruction="Answer politely.")
    new = await build.key(app)
    caller = await authenticator.authenticate(new.secret)
    assert (caller.tenant_id, caller.tenant) == (tenant.id, "acme")
    assert (caller.app_id, caller.app) == (app.id, "mail")
    assert caller.api_key_id == new.key.id
    assert caller.instruction == "Answer politely."


@pytest.mark.parametrize("secret", ["", "sk-lmaas-guess", "Bearer", "ключ", "\udcff", "\0"])
async def test_unknown_key_is_refused(authenticator: Authenticator, secret: str) -> None:
    with pytest.raises(Unauthenticated, match="unknown or revoked"):
        await authenticator.authenticate(secret)


async def test_cached_key_costs_no_query(
    build: Builder, authenticator: Authenticator, database: Database
) -> None:
    new = await build.key()
    first = await authenticator.authenticate(new.secret)
    with recorded_statements(database) as statements:
        assert await authenticator.authenticate(new.secret) is first
    assert statements == []


async def test_key_revoked_here_is_refused_at_once(sessions: Sessions, build: Builder) -> None:
    new = await build.key()
    await build.authenticator.authenticate(new.secret)
    await ApiKeys(sessions, build.authenticator).revoke(new.key.id, by="admin")
    with pytest.raises(Unauthenticated):
        await build.authenticator.authenticate(new.secret)


async def test_key_revoked_elsewhere_is_refused_after_the_cache_time(
    sessions: Sessions, build: Builder, authenticator: Authenticator, clock: Clock
) -> None:
    new = await build.key()
    await authenticator.authenticate(new.secret)
    await ApiKeys(sessions, Authenticator(sessions)).revoke(new.key.id, by="admin")
    clock.now = authentication.CACHE_S - 1
    await authenticator.authenticate(new.secret)
    clock.now = authentication.CACHE_S
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(new.secret)


async def test_cache_time_can_be_given(sessions: Sessions, build: Builder, clock: Clock) -> None:
    new = await build.key()
    authenticator = Authenticator(sessions, key_lookup_s=PATIENCE_S, cache_s=2.0, clock=clock)
    await authenticator.authenticate(new.secret)
    await ApiKeys(sessions, Authenticator(sessions)).revoke(new.key.id, by="admin")
    clock.now = 1.9
    await authenticator.authenticate(new.secret)
    clock.now = 2.0
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(new.secret)


async def test_key_is_refused_from_its_expiry_on_without_a_query(
    sessions: Sessions, build: Builder, database: Database
) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    seen = [expires_at - timedelta(microseconds=1)]
    authenticator = Authenticator(sessions, key_lookup_s=PATIENCE_S, now=lambda: seen[-1])
    app = await build.app()
    new = await ApiKeys(sessions, authenticator).create(
        app.id, "a day", expires_at=expires_at, by="admin"
    )
    await authenticator.authenticate(new.secret)
    seen.append(expires_at)
    with recorded_statements(database) as statements, pytest.raises(Unauthenticated):
        await authenticator.authenticate(new.secret)
    assert statements == []


async def test_expired_key_is_not_found(sessions: Sessions, build: Builder) -> None:
    new = await build.key()
    past = datetime.now(UTC) - timedelta(days=1)
    async with sessions.begin() as session:
        await (await session.connection()).execute(update(ApiKey).values(expires_at=past))
    with pytest.raises(Unauthenticated, match="expired"):
        await build.authenticator.authenticate(new.secret)
    with pytest.raises(Conflict):
        await ApiKeys(sessions, build.authenticator).rotate(
            new.key.id, "next", overlap_s=60, by="admin"
        )


async def test_both_keys_are_valid_during_the_overlap_of_a_rotation(
    sessions: Sessions, build: Builder
) -> None:
    keys, old = ApiKeys(sessions, build.authenticator), await build.key(name="old")
    first = await build.authenticator.authenticate(old.secret)
    new = await keys.rotate(old.key.id, "new", overlap_s=3600, by="admin")
    again = await build.authenticator.authenticate(old.secret)
    assert first.expires_at is None
    assert again.expires_at is not None
    assert (await build.authenticator.authenticate(new.secret)).app_id == first.app_id
    await keys.rotate(old.key.id, "newer", overlap_s=7200, by="admin")  # no later than it was
    assert (await build.authenticator.authenticate(old.secret)).expires_at == again.expires_at
    await keys.rotate(old.key.id, "newest", overlap_s=0, by="admin")
    with pytest.raises(Unauthenticated):
        await build.authenticator.authenticate(old.secret)


async def test_revocation_during_a_look_up_refuses_the_key(
    build: Builder, authenticator: Authenticator
) -> None:
    new = await build.key()
    asking = asyncio.create_task(authenticator.authenticate(new.secret))
    await asyncio.sleep(0)
    authenticator.revoke(new.key.id)
    with pytest.raises(Unauthenticated):
        await asking


async def test_key_created_after_its_refusal_is_accepted_once_the_refusal_expires(
    sessions: Sessions, authenticator: Authenticator, clock: Clock
) -> None:
    secret = new_secret()
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(secret)
    assert await ensure_demo(sessions, [], secret) == secret
    clock.now = authentication.REFUSAL_CACHE_S
    assert (await authenticator.authenticate(secret)).tenant == "demo"


async def test_unknown_key_is_looked_up_once_per_cache_time(
    authenticator: Authenticator, database: Database, clock: Clock
) -> None:
    with recorded_statements(database) as statements:
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await authenticator.authenticate("a wrong key")
        assert len(statements) == 1
        clock.now = authentication.REFUSAL_CACHE_S
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate("a wrong key")
        assert len(statements) == 2


async def test_thousand_guesses_at_once_cost_few_queries(
    authenticator: Authenticator, database: Database
) -> None:
    with recorded_statements(database) as statements:
        guesses = [authenticator.authenticate(f"guess {n}") for n in range(1000)]
        answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert all(isinstance(answer, Unauthenticated) for answer in answers)
    assert len(statements) <= 1 + -(-1000 // lookup.MAX_DIGESTS_PER_QUERY)


async def test_cache_of_refused_keys_is_bounded(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_CACHED_KEYS", 10)
    guesses = [authenticator.authenticate(f"guess {n}") for n in range(50)]
    await asyncio.gather(*guesses, return_exceptions=True)
    authenticator.check()
    assert len(authenticator._refused_until_s) == 10


async def test_cancelled_waiter_does_not_cancel_the_others(
    build: Builder, authenticator: Authenticator
) -> None:
    new = await build.key()
    leaving = asyncio.create_task(authenticator.authenticate(new.secret))
    staying = asyncio.create_task(authenticator.authenticate(new.secret))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).api_key_id == new.key.id


async def test_cached_key_is_accepted_while_the_database_is_away(
    proxied_database: Database, proxy: DatabaseProxy, build: Builder, clock: Clock
) -> None:
    authenticator = Authenticator(proxied_database.sessions, key_lookup_s=PATIENCE_S, clock=clock)
    new = await build.key()
    caller = await authenticator.authenticate(new.secret)
    await proxy.cut()
    clock.now = authentication.CACHE_S * 1000
    assert await authenticator.authenticate(new.secret) == caller


async def test_uncached_key_gets_database_lost_while_the_database_is_away(
    proxied_database: Database, proxy: DatabaseProxy, build: Builder
) -> None:
    new = await build.key()
    await proxy.cut()
    authenticator = Authenticator(proxied_database.sessions, key_lookup_s=PATIENCE_S)
    with pytest.raises(DatabaseLost):
        await authenticator.authenticate(new.secret)
    await proxy.start()
    assert (await authenticator.authenticate(new.secret)).api_key_id == new.key.id


async def test_revocation_applies_once_the_database_is_back(
    proxied_database: Database,
    proxy: DatabaseProxy,
    build: Builder,
    sessions: Sessions,
    clock: Clock,
) -> None:
    authenticator = Authenticator(proxied_database.sessions, key_lookup_s=PATIENCE_S, clock=clock)
    new = await build.key()
    await authenticator.authenticate(new.secret)
    await ApiKeys(sessions, Authenticator(sessions)).revoke(new.key.id, by="admin")
    await proxy.cut()
    clock.now = authentication.CACHE_S
    await authenticator.authenticate(new.secret)
    await proxy.start()
    clock.now += authentication.DATABASE_RETRY_S
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(new.secret)


async def test_changed_share_applies_after_the_cache_time(
    build: Builder, authenticator: Authenticator, clock: Clock, sessions: Sessions
) -> None:
    app = await build.app()
    new = await build.key(app)
    assert (await authenticator.authenticate(new.secret)).share == 1.0
    await Tenants(sessions).change(app.tenant_id, share=3.0, by="olga")
    assert (await authenticator.authenticate(new.secret)).share == 1.0
    clock.now += authentication.CACHE_S
    assert (await authenticator.authenticate(new.secret)).share == 3.0
