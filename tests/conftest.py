"""Hypothesis profiles, and fixtures for every test: a real Postgres with tenants, apps and keys.

A run has one embedded server, started by the first process that needs it. Each process has a
database of its own there, copied from one that is migrated once.
"""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import text

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions
from gateway.database.migration import migrate
from gateway.history.record import Record
from gateway.prediction.features.features import FEATURE_VERSION
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.keys import ApiKeys, NewKey
from gateway.tenancy.tenants import Tenants
from models import App, Base, Tenant
from models.base import new_id
from tests.distribution import ByGateway

PATIENCE_S = 600.0  # timeout of what must happen, however busy the machine: longer means a hang
POSTGRES = pytest.StashKey[Path]()
FIND_MIGRATED = "SELECT 1 FROM pg_database WHERE datname = 'migrated'"
# 20 times as fast as TRUNCATE for tables with few rows
DELETES = "; ".join(f"DELETE FROM {table}" for table in reversed(Base.metadata.sorted_tables))
EMPTY = f"DO $$ BEGIN {DELETES}; END $$"
# read by libraries when first imported: the processes of a run share the cores
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

# HYPOTHESIS_PROFILE chooses. Speed is measured elsewhere: a busy machine fails no property.
settings.register_profile(
    "ci",
    settings.get_profile("default"),
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile("dev", settings.get_profile("ci"), max_examples=25)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_configure(config: pytest.Config) -> None:
    """Create the folder of this run's Postgres; its path is short enough for a socket."""
    os.environ.update(ONE_THREAD | os.environ)
    # The processes of a run read the code that the first one compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    given = getattr(config, "workerinput", None)
    folder = given["postgres"] if given else tempfile.mkdtemp(prefix="lmaas-test-")
    config.stash[POSTGRES] = Path(folder)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the folder to a pytest-xdist process."""
    node.workerinput["postgres"] = str(node.config.stash[POSTGRES])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGateway | None:
    """Keep the tests of a gateway together where those of a file are kept together."""
    return ByGateway(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Leave the libraries and tests out of searches for garbage: they are no garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder at the end of the run, after its processes have ended."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[POSTGRES], ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[EmbeddedPostgres]:
    """The run's embedded server. Its own database `postgres` has no tables."""
    with EmbeddedPostgres(pytestconfig.stash[POSTGRES]) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here outlives a crash
            connection.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: EmbeddedPostgres) -> str:
    """The name of a database with this release's tables, which others are copied from."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(0)")  # one process migrates, others wait
        if not connection.execute(FIND_MIGRATED).fetchone():
            connection.execute("CREATE DATABASE migrated")
            migrate(url_of(postgres, "migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def copied_database(postgres: EmbeddedPostgres, migrated: str) -> Callable[[str], str]:
    """Makes databases with this release's tables; the address of one, by its name."""

    def copy(name: str) -> str:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated}")
        return url_of(postgres, name)

    return copy


@pytest.fixture(scope="session")
def postgres_url(copied_database: Callable[[str], str]) -> str:
    """A database of this process with this release's tables."""
    return copied_database(f"test_{os.getpid()}")


def url_of(postgres: EmbeddedPostgres, database: str) -> str:
    return postgres.url.replace("/postgres?", f"/{database}?")


@pytest.fixture(scope="session")
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """Connections to the migrated database."""
    opened = await Database.open(postgres_url)
    yield opened
    await opened.close()


@pytest.fixture
async def sessions(database: Database) -> AsyncIterator[Sessions]:
    """Sessions on a database that is empty before every test."""
    yield database.sessions
    async with database.engine.begin() as connection:
        await connection.execute(text(EMPTY))


@pytest.fixture
def a_record() -> Callable[..., Record]:
    """Makes the record of a completed request; any field can be given."""

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
    """Creates tenants, apps and keys with unique names through the services."""

    def __init__(self, sessions: Sessions) -> None:
        self.authenticator = Authenticator(sessions, key_lookup_s=PATIENCE_S)
        self._tenants = Tenants(sessions)
        self._apps = Apps(sessions)
        self._keys = ApiKeys(sessions, self.authenticator)
        self._numbers = count(1)

    async def tenant(self, name: str | None = None) -> Tenant:
        return await self._tenants.create(name or f"tenant {next(self._numbers)}", by="admin")

    async def app(
        self,
        tenant: Tenant | None = None,
        *,
        name: str | None = None,
        instruction: str | None = None,
    ) -> App:
        owner = tenant or await self.tenant()
        return await self._apps.create(
            owner.id, name or f"app {next(self._numbers)}", instruction, by="admin"
        )

    async def key(self, app: App | None = None, *, name: str = "a key") -> NewKey:
        owner = app or await self.app()
        return await self._keys.create(owner.id, name, by="admin")


@pytest.fixture
def build(sessions: Sessions) -> Builder:
    """Creates tenants, apps and keys for a test."""
    return Builder(sessions)
