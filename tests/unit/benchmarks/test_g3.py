"""G3: the history that it makes, its calls, and its verdicts."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import numpy as np
import psycopg
import pytest

from benchmarks.g3.callers import APPS, MODELS, AppKey
from benchmarks.g3.history import DAYS, SLOTS, VECTOR_DAYS, app_of_slots, fill
from benchmarks.g3.reads import LIST, routes, row_of
from benchmarks.g3.run import PARTS, targets
from benchmarks.g3.serving import Inserts
from benchmarks.g3.serving import row_of as retention_row
from gateway.database.embedded import EmbeddedPostgres
from gateway.history.listing import Place
from gateway.prediction.features.embedder_model import EmbedderModel

UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
KEYS = [
    AppKey(
        rank=number,
        tenant=f"tenant {number}",
        tenant_id=UUID(int=number + 1),
        app_id=UUID(int=number + 11),
        key_id=UUID(int=number + 21),
        secret=f"secret {number}",
    )
    for number in range(6)
]


@pytest.fixture
def url(postgres: EmbeddedPostgres, copied_database: Callable[[str], str]) -> Iterator[str]:
    """A migrated database of its own."""
    yield copied_database("g3")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE g3 WITH (FORCE)")


def test_shares_of_apps_follow_zipf_and_none_is_without() -> None:
    counts = Counter(app_of_slots(APPS))
    assert sum(counts.values()) == SLOTS
    assert len(counts) == APPS
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
    assert min(counts.values()) >= 1


def test_history_has_its_rows_their_vectors_their_usage_and_every_index(url: str) -> None:
    with psycopg.connect(url) as connection:
        indexes = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'requests' ORDER BY 1"
        ).fetchall()
    embedder = EmbedderModel(folder="", id="none", dims=8)
    fill(
        url,
        KEYS,
        {MODELS[0]: UUID(int=9)},
        rows=2_000,
        until=UNTIL,
        embedder=embedder,
        say=lambda _: None,
    )
    with psycopg.connect(url) as connection:
        rows, first, last, vectors, with_vectors_since = (
            connection.execute(
                "SELECT count(*), min(arrived_at), max(arrived_at), count(embedding), "
                "min(arrived_at) FILTER (WHERE embedding IS NOT NULL) FROM requests"
            ).fetchone()
            or ()
        )
        assert rows == 2_000
        assert first == UNTIL - timedelta(days=DAYS)
        assert last < UNTIL
        assert vectors == pytest.approx(rows * VECTOR_DAYS / DAYS, rel=0.01)
        assert with_vectors_since >= UNTIL - timedelta(days=VECTOR_DAYS)
        summed = connection.execute(
            "SELECT sum(requests), sum(failed), count(DISTINCT tenant_id) FROM usage_days"
        ).fetchone()
        failed = connection.execute(
            "SELECT count(*) FROM requests WHERE finish_reason = 'error'"
        ).fetchone()
        assert failed
        assert summed == (2_000, failed[0], len(KEYS))
        assert (
            indexes
            == connection.execute(
                "SELECT indexdef FROM pg_indexes WHERE tablename = 'requests' ORDER BY 1"
            ).fetchall()
        )


def test_calls_name_callers_and_places_of_the_history() -> None:
    made = {name: make(Random(1)) for name, make in routes(KEYS, UNTIL).items()}
    path, query, secret = made["list of a tenant, deep page"]
    assert (path, secret) == (LIST, None)
    assert query["tenant"] in {key.tenant for key in KEYS}
    assert UNTIL - timedelta(days=DAYS) <= Place.decode(str(query["after"])).arrived_at < UNTIL
    assert made["own list"][2] in {key.secret for key in KEYS}


def test_verdicts_are_of_each_call_the_training_read_and_retention() -> None:
    inserts = Inserts(taken_ms=[10.0] * 99 + [2_000.0], records=6_000, lasted_s=60.0)
    rows = [
        row_of("list, first page", np.array([5.0] * 100)),
        row_of("list of a day", np.array([5.0] * 90 + [300.0] * 10)),
        {"part": "training", "read_s": 21.0},
        retention_row("no", inserts, None, None),
        retention_row("yes", inserts, 90, 1.0),
    ]
    assert {row["part"] for row in rows} == {*PARTS}
    verdicts = {each.name: each.met for each in targets(rows)}
    assert verdicts == {
        "list, first page: p99 ms, at most": True,
        "list of a day: p99 ms, at most": False,
        "training read of one model: seconds, at most": False,
        "rows deleted a second, at 100 arriving, at least": False,
        "insert of a group while rows are deleted: p99 ms, at most": True,
    }
