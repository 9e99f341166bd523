"""Migrations on a real server."""

import threading

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from gateway.database.migration import LOCK_KEY, alembic_config, migrate
from gateway.errors import StartupFailure
from models import Base


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in rows}


def test_empty_database_gets_every_table(empty_url: str) -> None:
    migrate(empty_url)
    assert tables(empty_url) == set(Base.metadata.tables) | {"alembic_version"}


def test_tables_and_models_agree(empty_url: str) -> None:
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        command.check(config)


def test_downgrade_and_upgrade_restore_every_table(empty_url: str) -> None:
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        command.downgrade(config, "base")
    assert tables(empty_url) == {"alembic_version"}
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        command.check(config)


def test_embeddings_of_an_earlier_release_stay_and_have_no_embedder(empty_url: str) -> None:
    migrate(empty_url)
    add = "INSERT INTO instructions (hash, embedding) VALUES ('a', 'e')"
    with alembic_config(empty_url) as config:
        command.downgrade(config, "0007")
        with psycopg.connect(empty_url) as connection:
            connection.execute(add)
        command.upgrade(config, "head")
        with psycopg.connect(empty_url) as connection:
            connection.execute(f"{add} ON CONFLICT DO NOTHING")  # as the earlier release
            connection.execute("INSERT INTO instructions VALUES ('a', 'f', 'new@1')")
            rows = connection.execute("SELECT embedder FROM instructions ORDER BY 1").fetchall()
        assert rows == [("",), ("new@1",)]
        command.downgrade(config, "0007")
        with psycopg.connect(empty_url) as connection:
            assert connection.execute("SELECT * FROM instructions").fetchall() == [(b"a", b"e")]


ROW = """
    INSERT INTO requests (arrived_at, id, tenant_id, app_id, api_key_id, model, streamed,
        prompt_tokens, user_input_tokens, max_tokens, temperature, top_p, quantiles,
        prediction_source, feature_version, features, instruction_hash, generation_tokens,
        finish_reason, censored, policy, preemptions, queued_s, response_s)
    SELECT at, gen_random_uuid(), id, id, id, 'm', false, 20, 10, 100, 1, 1, '{}', 'prior', 1, '',
        '', 12, 'stop', false, 'lmaas', 0, 0.1, 0.3
    FROM gen_random_uuid() AS id, CAST('2026-03-01 00:30:00+01' AS timestamptz) AS at
"""


def test_history_that_an_upgrade_finds_is_counted_in_usage(empty_url: str) -> None:
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        before = ScriptDirectory.from_config(config).get_revision("0010").down_revision
        assert isinstance(before, str)
        command.downgrade(config, before)
    with psycopg.connect(empty_url) as connection:
        connection.execute(ROW)
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute(ROW)
        kept = "SELECT day::text, sum(requests)::int, sum(prompt_tokens)::int FROM usage_days"
        assert connection.execute(f"{kept} GROUP BY day").fetchall() == [("2026-02-28", 2, 40)]


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    migrate(empty_url)
    before = tables(empty_url)
    migrate(empty_url)
    assert tables(empty_url) == before


def test_gateway_waits_while_another_migrates(empty_url: str) -> None:
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        waiting = threading.Thread(target=migrate, args=(empty_url,))
        waiting.start()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while other.execute(waits).fetchone() == (0,):
            assert waiting.is_alive()
        assert tables(empty_url) == set()
    waiting.join(20)
    assert "tenants" in tables(empty_url)


def test_migration_fails_if_the_lock_stays_taken(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database.migration.LOCK_TIMEOUT", "100ms")
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        with pytest.raises(StartupFailure, match="lock timeout"):
            migrate(empty_url)


def test_database_of_a_newer_release_is_used_as_it_is_if_that_release_says_so(
    empty_url: str,
) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        migrate(empty_url)
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        assert rows == [("9999",)]
        connection.execute("DELETE FROM compatible_releases")  # as a migration would
        with pytest.raises(StartupFailure, match=r"9999.*newer release"):
            migrate(empty_url)
        connection.execute("DROP TABLE compatible_releases")
        with pytest.raises(StartupFailure, match=r"9999.*newer release"):
            migrate(empty_url)
