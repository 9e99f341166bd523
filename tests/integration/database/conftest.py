"""A database without tables."""

import os
from collections.abc import Iterator

import psycopg
import pytest

from gateway.database.embedded import EmbeddedPostgres

EMPTY = f"empty_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"  # the server is shared


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {EMPTY}")
        yield postgres.url.replace("/postgres?", f"/{EMPTY}?")
        connection.execute(f"DROP DATABASE {EMPTY} WITH (FORCE)")
