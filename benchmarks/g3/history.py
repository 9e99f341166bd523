"""A year of history, made in PostgreSQL by statements of many rows.

The triggers of the schema roll up its usage. Indexes are dropped meanwhile and built again, as an
operator who loads a backup would.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from benchmarks.g3.callers import MODELS, AppKey
from gateway.prediction.features.embedder_model import EmbedderModel
from gateway.prediction.features.features import FEATURE_VERSION, NAMES
from gateway.prediction.features.text_encoder import TEXT_DIMS

DAYS: Final = 365
VECTOR_DAYS: Final = (
    90  # as long as training reads: older rows are as the embedder's `off` left them
)
PART_ROWS: Final = 500_000  # of a statement
SLOTS: Final = 10_000  # of which each app has its share
USERS: Final = 500  # of an app that names them
VECTORS: Final = 2_000  # different ones

Connection = psycopg.Connection[tuple[Any, ...]]

_TABLES: Final = """
    CREATE UNLOGGED TABLE bench_slots (
        slot integer PRIMARY KEY, tenant_id uuid, app_id uuid, key_id uuid, app_rank integer,
        names_users boolean
    );
    CREATE UNLOGGED TABLE bench_vectors (
        number integer PRIMARY KEY, features bytea, text_vector bytea, sentence bytea
    );
    CREATE UNLOGGED TABLE bench_models (number integer PRIMARY KEY, name text, price_id uuid);
    CREATE FUNCTION bench_random(row_number bigint, salt bigint, below bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT (hashint8extended($1, $2) & 9223372036854775807) % $3'
"""
# `u` are uniform in [0, 1), different for each use, the same in every run.
_INSERT: Final = """
    INSERT INTO requests (
        arrived_at, id, tenant_id, app_id, api_key_id, end_user, model, streamed, prompt_tokens,
        user_input_tokens, max_tokens, temperature, top_p, quantiles, prediction_source,
        feature_version, features, instruction_hash, embedding, input_embedding, embedder,
        generation_tokens, finish_reason, censored, policy, batch_id, batch_size, preemptions,
        queued_s, first_token_s, response_s, hard, service_tier, queue_ahead, passed_by,
        expected_start_s, expected_finish_s, response_ratio, overdue, kv_free_pages, gateway_id,
        cached_tokens, price_id
    )
    SELECT
        at,
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(i::text), 1, 3) || 'a' || substr(md5(i::text), 4, 15))::uuid,
        slots.tenant_id, slots.app_id, slots.key_id,
        CASE WHEN slots.names_users
            THEN 'user-' || slots.app_rank || '-' || bench_random(i, 2, %(users)s) END,
        models.name, bench_random(i, 3, 2) = 0, 40 + bench_random(i, 4, 1500),
        20 + bench_random(i, 4, 1500) / 2, 2048, 1.0, 1.0,
        ARRAY[40, 90, 160, 240, 330, 420]::float8[], 'model',
        %(version)s, vectors.features, decode(md5(slots.app_rank::text), 'hex'),
        CASE WHEN at >= %(vectors_since)s THEN vectors.text_vector END,
        CASE WHEN at >= %(vectors_since)s THEN vectors.sentence END,
        CASE WHEN at >= %(vectors_since)s THEN %(embedder)s END,
        tokens, reason, reason NOT IN ('stop'), 'lmaas', 'b-' || i / 8, 8,
        0, 0.05, 0.15, 0.15 + tokens * 0.02, bench_random(i, 5, 100) < 15, tier, 3, 1,
        0.05, 0.15 + tokens * 0.02, 1.5, false, 900, %(gateway)s,
        bench_random(i, 4, 1500) / 4, models.price_id
    FROM (
        SELECT i, at, 1 + bench_random(i, 6, 700) AS tokens,
            (ARRAY['stop', 'length', 'cancelled', 'error'])[
                1 + (bench_random(i, 7, 1000) >= 800)::int + (bench_random(i, 7, 1000) >= 980)::int
                + (bench_random(i, 7, 1000) >= 995)::int
            ] AS reason,
            (ARRAY['default', 'batch', 'flex', 'priority'])[
                1 + (bench_random(i, 8, 100) >= 85)::int + (bench_random(i, 8, 100) >= 92)::int
                + (bench_random(i, 8, 100) >= 97)::int
            ] AS tier,
            bench_random(i, 1, %(slots)s) AS slot, bench_random(i, 9, %(vectors)s) AS vector,
            (bench_random(i, 10, 10) >= 6)::int + (bench_random(i, 10, 10) >= 9)::int AS model
        FROM (
            SELECT i, %(since)s + (i * %(step)s) * interval '1 second' AS at
            FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i
        ) AS arrivals
    ) AS drawn
    JOIN bench_slots AS slots ON slots.slot = drawn.slot
    JOIN bench_vectors AS vectors ON vectors.number = drawn.vector
    JOIN bench_models AS models ON models.number = drawn.model
"""


def app_of_slots(apps: int, slots: int = SLOTS) -> list[int]:
    """The rank of the app of each slot, by Zipf's law: shares fall as 1 / (rank + 1).

    Every app has a slot.
    """
    weights = 1 / np.arange(1, apps + 1)
    counts = 1 + np.floor((slots - apps) * weights / weights.sum()).astype(int)
    counts[0] += slots - counts.sum()
    return np.repeat(np.arange(apps), counts).tolist()


def fill(
    url: str,
    keys: Sequence[AppKey],
    prices: Mapping[str, UUID],
    *,
    rows: int,
    until: datetime,
    embedder: EmbedderModel,
    say: Callable[[str], None],
) -> None:
    """Insert `rows` requests of the year before `until`."""
    since = until - timedelta(days=DAYS)
    given = {
        "since": since,
        "step": DAYS * 86_400 / rows,
        "vectors_since": until - timedelta(days=VECTOR_DAYS),
        "version": FEATURE_VERSION,
        "embedder": embedder.id,
        "users": USERS,
        "slots": SLOTS,
        "vectors": VECTORS,
        "gateway": UUID(int=1),
    }
    with psycopg.connect(url, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("ALTER SYSTEM SET max_wal_size = '4GB'")
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET maintenance_work_mem = '512MB'")
        _make_tables(connection, keys, prices, embedder.dims)
        indexes = _drop_indexes(connection)
        for first in range(0, rows, PART_ROWS):
            part = {"first": first, "last": min(first + PART_ROWS, rows) - 1}
            connection.execute(_INSERT, given | part)
            say(f"{part['last'] + 1:,} rows")
        for definition in indexes:
            connection.execute(definition)
        connection.execute("DROP TABLE bench_slots, bench_vectors, bench_models")
        connection.execute("VACUUM (ANALYZE) requests")
        connection.execute("VACUUM (ANALYZE) usage_days")
        connection.execute("VACUUM (ANALYZE) key_usage_days")
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CHECKPOINT")
        say("indexes are built")


def _make_tables(
    connection: Connection, keys: Sequence[AppKey], prices: Mapping[str, UUID], dims: int
) -> None:
    random = np.random.default_rng(1)
    connection.execute(_TABLES)
    of_app: dict[int, list[AppKey]] = {}
    for key in keys:
        of_app.setdefault(key.rank, []).append(key)
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY bench_slots FROM STDIN") as copy,
    ):
        for slot, rank in enumerate(app_of_slots(len(of_app))):
            key = of_app[rank][slot % len(of_app[rank])]
            copy.write_row((slot, key.tenant_id, key.app_id, key.key_id, key.rank, key.names_users))
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY bench_vectors FROM STDIN") as copy,
    ):
        for number in range(VECTORS):
            copy.write_row(
                (
                    number,
                    random.random(len(NAMES), np.float32).tobytes(),
                    random.random(TEXT_DIMS).astype(np.float16).tobytes(),
                    random.random(dims).astype(np.float16).tobytes(),
                )
            )
    for number, model in enumerate(MODELS):
        connection.execute(
            "INSERT INTO bench_models VALUES (%s, %s, %s)", (number, model, prices.get(model))
        )


def _drop_indexes(connection: Connection) -> list[str]:
    """Drop the indexes of history but the primary key; the statements that make them again."""
    found = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes "
        "WHERE tablename = 'requests' AND indexname <> 'pk_requests' ORDER BY indexname"
    ).fetchall()
    for name, _ in found:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    return [definition for _, definition in found]
