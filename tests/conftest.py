"""Fixtures every test may ask for: a real Postgres, and what is built in it."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions
from gateway.database.migration import migrate
from gateway.history.record import Record
from gateway.prediction.features import FEATURE_VERSION
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.keys import ApiKeys, NewKey
from gateway.tenancy.tenants import Tenants
from models import App, Base, Tenant
from models.base import new_id


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded server of the tests' own. Its folder's path is short, for the socket's sake."""
    folder = Path(tempfile.mkdtemp(prefix="lmaas-test-"))
    try:
        with EmbeddedPostgres(folder) as server:
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here outlives a crash
                connection.execute("SELECT pg_reload_conf()")
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """A database with this release's tables."""
    migrate(postgres.url)
    return postgres.url


@pytest.fixture(scope="session")
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """Connections to the migrated database."""
    opened = await Database.open(postgres_url)
    yield opened
    await opened.close()


@pytest.fixture
async def sessions(database: Database) -> AsyncIterator[Sessions]:
    """Sessions on a database that is empty before every test."""
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    yield database.sessions
    async with database.engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {tables} CASCADE"))


@pytest.fixture
def a_record() -> Callable[..., Record]:
    """Makes the record of one request that ended by itself; any field can be given."""

    def build(**given: object) -> Record:
        fields: dict[str, object] = {
            "arrived_at": datetime.now(UTC),
            "id": new_id(),
            "tenant_id": UUID(int=1),
            "app_id": UUID(int=2),
            "api_key_id": UUID(int=3),
            "end_user": None,
            "model": "model",
            "streamed": False,
            "prompt_tokens": 20,
            "user_input_tokens": 10,
            "max_tokens": 100,
            "temperature": 1.0,
            "top_p": 1.0,
            "quantiles": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "prediction_source": "prior",
            "predictor_id": None,
            "feature_version": FEATURE_VERSION,
            "features": b"",
            "instruction_hash": b"hash",
            "instruction_embedding": None,
            "embedding": None,
            "generation_tokens": 12,
            "finish_reason": "stop",
            "censored": False,
            "policy": "lmaas",
            "batch_id": "1",
            "batch_size": 1,
            "preemptions": 0,
            "queued_s": 0.1,
            "first_token_s": 0.2,
            "response_s": 0.3,
        }
        return Record(**{**fields, **given})

    return build


class Builder:
    """Tenants, apps and keys with names of their own, made through the services."""

    def __init__(self, sessions: Sessions) -> None:
        self.authenticator = Authenticator(sessions)
        self._tenants = Tenants(sessions)
        self._apps = Apps(sessions)
        self._keys = ApiKeys(sessions, self.authenticator)
        self._numbers = count(1)

    async def tenant(self, name: str | None = None) -> Tenant:
        return await self._tenants.create(name or f"tenant {next(self._numbers)}")

    async def app(
        self,
        tenant: Tenant | None = None,
        *,
        name: str | None = None,
        instruction: str | None = None,
    ) -> App:
        owner = tenant or await self.tenant()
        return await self._apps.create(owner.id, name or f"app {next(self._numbers)}", instruction)

    async def key(self, app: App | None = None, *, name: str = "a key") -> NewKey:
        owner = app or await self.app()
        return await self._keys.create(owner.id, name)


@pytest.fixture
def build(sessions: Sessions) -> Builder:
    """Makes what a test starts from."""
    return Builder(sessions)
