"""An upgrade from revision 0012 and the way back, with rows in every table."""

import json
from typing import Any
from uuid import UUID

import psycopg
from alembic import command
from psycopg import sql

from gateway.database.migration import alembic_config, migrate

BEFORE = "0012"
SAMPLES: dict[str, object] = {
    "uuid": UUID(int=1),
    "text": "x",
    "integer": 1,
    "smallint": 1,
    "bigint": 1,
    "boolean": True,
    "double precision": 0.5,
    "real": 0.5,
    "numeric": 2,
    "date": "2026-03-01",
    "timestamp with time zone": "2026-03-01 12:00:00+00",
    "bytea": b"bytes",
    "jsonb": "{}",
    "ARRAY": "{}",
}
# What a constraint, or a rule of usage, needs other than the sample of its type.
GIVEN: dict[tuple[str, str], object] = {
    ("files", "state"): "ready",
    ("limits", "level"): "tenant",
    ("limits", "quantity"): "tokens",
    ("limits", "period"): "day",
    ("limits", "effect"): "hard",
    ("prices", "valid_until"): None,
}
OPTIONAL = {("limits", "tenant_id"), ("requests", "queued_s"), ("requests", "end_user")}
COLUMNS = """
    SELECT table_name, column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name NOT IN ('alembic_version', 'usage_days')
    AND (is_nullable = 'NO' AND column_default IS NULL OR (table_name, column_name) = ANY (
        SELECT * FROM unnest(%s::text[], %s::text[])
    ))
    ORDER BY table_name, ordinal_position
"""
REFERENCES = """
    SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint
    WHERE contype = 'f'
"""

ACCOUNT = "INSERT INTO limit_accounts SELECT id, '', now(), 1, 1 FROM limits"

Connection = psycopg.Connection[Any]
Rows = dict[str, list[dict[str, Any]]]


def fill(connection: Connection) -> set[str]:
    """Insert a row into every table, into those that others refer to first; the tables."""
    columns: dict[str, dict[str, object]] = {}
    names, fields = zip(*sorted(OPTIONAL), strict=True)
    for table, column, kind in connection.execute(COLUMNS, (list(names), list(fields))):
        value = GIVEN.get((table, column), SAMPLES[kind])
        columns.setdefault(table, {})[column] = value
    needed: dict[str, set[str]] = {table: set() for table in columns}
    for table, other in connection.execute(REFERENCES):
        if table in needed and other != table:
            needed[table].add(other)
    done: set[str] = set()
    while len(done) < len(columns):
        for table in sorted(columns):
            if table not in done and needed[table] <= done:
                insert(connection, table, columns[table])
                done.add(table)
    return done


def insert(connection: Connection, table: str, values: dict[str, object]) -> None:
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        ),
        list(values.values()),
    )


def rows_of(connection: Connection, tables: set[str]) -> Rows:
    """Every row of some tables, as JSON."""
    found: Rows = {}
    for table in sorted(tables):
        query = sql.SQL("SELECT row_to_json(t)::text FROM {} AS t ORDER BY 1")
        rows = connection.execute(query.format(sql.Identifier(table)))
        found[table] = [json.loads(row) for (row,) in rows]
    return found


def without(rows: Rows, kept: Rows) -> Rows:
    """The rows with the columns alone that those of `kept` have."""
    return {
        table: [{name: row[name] for name in kept[table][0]} for row in rows[table]]
        for table in rows
    }


def test_rows_of_revision_0012_survive_the_upgrade_and_the_way_back(empty_url: str) -> None:
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        command.downgrade(config, BEFORE)
    with psycopg.connect(empty_url) as connection:
        tables = fill(connection) | {"usage_days"}
        before = rows_of(connection, tables)
    assert all(len(rows) == 1 for rows in before.values())
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        after = rows_of(connection, tables | {"key_usage_days"})
        (sums,) = after.pop("key_usage_days")
        assert without(after, before) == before
        assert before["usage_days"] == [sums | {"end_user": "x"}]
        assert sums["prompt_tokens"] == 1
        (line,), (tenant,) = after["batch_lines"], after["tenants"]
        assert (line["outer_prefix_tokens"], line["page_hashes"]) == (0, None)
        assert tenant["deleted_at"] is None
        connection.execute(
            "INSERT INTO limit_accounts VALUES (%s, '', now(), 1, 1)", (UUID(int=1),)
        )
    with alembic_config(empty_url) as config:
        command.downgrade(config, BEFORE)
    with psycopg.connect(empty_url) as connection:
        assert rows_of(connection, tables) == before


def test_way_back_leaves_out_deleted_tenants_and_frees_their_names(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        tables = fill(connection)
        connection.execute("UPDATE tenants SET deleted_at = now(), learning = false")
        connection.execute("UPDATE apps SET deleted_at = now()")
        connection.execute("INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'x')")
    with alembic_config(empty_url) as config:
        command.downgrade(config, BEFORE)
    with psycopg.connect(empty_url) as connection:
        left = rows_of(connection, {"tenants", "apps", "api_keys", "requests", "usage_days"})
    assert "tenants" in tables
    assert {table: len(rows) for table, rows in left.items()} == {
        "tenants": 1, "apps": 0, "api_keys": 0, "requests": 1, "usage_days": 1
    }  # fmt: skip
