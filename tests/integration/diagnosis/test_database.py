"""Databases that are down, of another release, or not there yet."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.database.embedded import EmbeddedPostgres
from gateway.database.migration import alembic_config, migrate
from gateway.diagnosis.database import check_database
from gateway.diagnosis.diagnosis import Check, run
from gateway.diagnosis.finding import Finding
from gateway.settings import Settings
from tests.conftest import url_of


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE diagnosed")
        yield url_of(postgres, "diagnosed")
        connection.execute("DROP DATABASE diagnosed WITH (FORCE)")


def findings(url: str, *, running: bool = False) -> dict[str, Finding]:
    found = check_database(Settings(database_url=url), running=running)
    return {each.part: each for each in found}


def test_a_migrated_database_is_fine(postgres_url: str) -> None:
    found = findings(postgres_url)
    assert {part: each.status for part, each in found.items()} == {
        "database": "ok",
        "migrations": "ok",
    }
    assert found["database"].message.startswith("external, PostgreSQL 18.")


def test_missing_tables_are_a_warning_until_a_gateway_runs(empty_url: str) -> None:
    stopped = findings(empty_url)["migrations"]
    assert (stopped.status, "lmaas migrate" in stopped.remedy) == ("warning", True)
    assert findings(empty_url, running=True)["migrations"].status == "failure"


def test_tables_of_other_releases_are_named(empty_url: str) -> None:
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        config.attributes["connection"].exec_driver_sql(
            "UPDATE alembic_version SET version_num = '0003'"
        )
        config.attributes["connection"].commit()
    assert "at 0003, this release needs" in findings(empty_url)["migrations"].message
    with psycopg.connect(empty_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = findings(empty_url)["migrations"]
    assert (newer.status, "newer release (9999), and suit" in newer.message) == ("ok", True)
    with psycopg.connect(empty_url) as connection:
        connection.execute("DELETE FROM compatible_releases")
    newer = findings(empty_url)["migrations"]
    assert (newer.status, "newer release (9999)" in newer.message) == ("failure", True)


def test_a_database_that_is_down_fails_without_its_password() -> None:
    settings = Settings(database_url="postgresql://me:hunter2-and-more@127.0.0.1:1/lmaas")
    check = Check("database", lambda: check_database(settings, running=False), 60)
    [found] = run(check)
    assert (found.status, "DATABASE_URL" in found.remedy) == ("failure", True)
    assert "hunter2" not in found.message + found.remedy


def test_an_address_that_is_none_fails_without_its_text() -> None:
    [found] = check_database(Settings(database_url="mysql://me:hunter2@host/x"), running=False)
    assert found.status == "failure"
    assert "hunter2" not in found.message


def test_no_embedded_database_yet_is_fine_and_none_is_made(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path / "data"))
    [found] = check_database(settings, running=False)
    assert found.status == "ok"
    assert not (tmp_path / "data").exists()


def test_an_embedded_database_of_another_release_of_postgres_fails(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir(mode=0o700)
    (tmp_path / "postgres" / "PG_VERSION").write_text("12\n")
    [found] = check_database(Settings(data_dir=str(tmp_path)), running=False)
    assert found.status == "failure"
    assert found.remedy


def test_an_embedded_database_that_died_under_a_gateway_fails(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    [found] = check_database(Settings(data_dir=str(tmp_path)), running=True)
    assert (found.status, "restart the gateway" in found.remedy) == ("failure", True)
