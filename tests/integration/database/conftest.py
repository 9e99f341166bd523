"""A database without tables."""

from collections.abc import Iterator

import psycopg
import pytest

from gateway.database.embedded import EmbeddedPostgres


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
        yield postgres.url.replace("/postgres?", "/empty?")
        connection.execute("DROP DATABASE empty WITH (FORCE)")
