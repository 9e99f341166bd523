"""Samples drawn from history on a real Postgres."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.features.features import FEATURE_VERSION, NAMES
from gateway.prediction.features.text_encoder import TEXT_DIMS
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.prediction.training.samples import read_samples
from gateway.prediction.training.sampling import LEARNABLE
from gateway.tenancy.tenants import Tenants
from models.base import new_id
from tests.conftest import Builder

FEATURES = np.zeros(len(NAMES), dtype=np.float32).tobytes()
TEXT = bytes(2 * TEXT_DIMS)
EMBEDDER = packaged_embedder()
SENTENCE = bytes(2 * EMBEDDER.dims)
START = datetime(2026, 1, 1, tzinfo=UTC)
DRAWS = 80
StoreRecords: TypeAlias = Callable[[Sequence[Record]], Awaitable[None]]


@pytest.fixture
def a_sample(a_record: Callable[..., Record]) -> Callable[..., Record]:
    """Makes a record that training can read; any field can be given."""

    def build(**given: object) -> Record:
        fields = {"features": FEATURES, "feature_version": FEATURE_VERSION}
        return a_record(**{**fields, **given})

    return build


@pytest.fixture
def store(sessions: Sessions, tmp_path: Path) -> StoreRecords:
    """Puts records into history."""
    writer = HistoryWriter(sessions, tmp_path)

    async def put(records: Sequence[Record]) -> None:
        for record in records:
            writer.record(record)
        await writer.flush()

    return put


async def test_few_rows_are_all_read_oldest_first_and_weigh_the_same(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record]
) -> None:
    arrivals = [START + timedelta(seconds=second) for second in (3, 1, 2)]
    await store([a_sample(arrived_at=when, generation_tokens=when.second) for when in arrivals])
    samples, report = await read_samples(sessions, "model")
    assert samples.tokens.tolist() == [1, 2, 3]
    assert samples.arrived == sorted(arrivals)
    assert samples.weights is not None
    assert samples.weights.tolist() == [1, 1, 1]
    assert (report["found"], report["read"]) == (3, 3)


async def test_rows_without_usable_length_or_features_are_not_read(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record]
) -> None:
    cut = {"censored": True, "finish_reason": "cancelled"}
    await store(
        [
            a_sample(generation_tokens=0, **cut),
            a_sample(feature_version=FEATURE_VERSION + 1),
            a_sample(model="other"),
            a_sample(features=b"1234"),
            a_sample(arrived_at=START - timedelta(seconds=1)),
            a_sample(generation_tokens=7, **cut),
        ]
    )
    samples, _ = await read_samples(sessions, "model", since=START)
    assert samples.tokens.tolist() == [7]
    assert samples.censored.tolist() == [True]


async def test_rows_whose_numbers_cannot_be_are_left_out_and_counted(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record], build: Builder
) -> None:
    no_number = np.full(len(NAMES), np.nan, dtype=np.float32).tobytes()
    ours = {"embedder": EMBEDDER.id, "tenant_id": (await build.tenant()).id}
    await store(
        [
            a_sample(generation_tokens=7, instruction_embedding=b"short", **ours),
            a_sample(generation_tokens=-7),
            a_sample(max_tokens=0),
            a_sample(features=b"1234"),
            a_sample(features=no_number),
            a_sample(quantiles=[1.0] * 5),
            a_sample(quantiles=[9.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            a_sample(embedding=TEXT[2:], **ours),
            a_sample(input_embedding=SENTENCE + b"12", **ours),
            a_sample(input_embedding=b"\x00\x7c" * EMBEDDER.dims, **ours),  # infinite
        ]
    )
    async with sessions.begin() as session:
        await session.execute(
            text("UPDATE requests SET quantiles[4] = 'NaN' WHERE quantiles[1] = 9")
        )
    samples, report = await read_samples(sessions, "model")
    assert samples.tokens.tolist() == [7]
    assert np.isnan(samples.inputs.instructions).all()
    assert report["unusable"] == {"length": 2, "features": 2, "quantiles": 2, "vectors": 3}


@pytest.mark.parametrize("time", ["infinity", "12026-01-01", "2126-01-01"])
async def test_rows_that_arrive_at_a_time_that_has_not_come_are_left_out_and_counted(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record], time: str
) -> None:
    await store([a_sample(generation_tokens=7), a_sample(generation_tokens=8)])
    async with sessions.begin() as session:
        await session.execute(
            text(f"UPDATE requests SET arrived_at = '{time}' WHERE generation_tokens = 8")
        )
    samples, report = await read_samples(sessions, "model")
    assert samples.tokens.tolist() == [7]
    assert (report["found"], report["unusable"]) == (1, {"time": 1})


async def test_draw_is_the_same_for_the_same_seed_and_another_for_another(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record]
) -> None:
    await store([a_sample(generation_tokens=n + 1, quantiles=[n + 1.0] * 6) for n in range(400)])

    async def drawn(seed: int) -> list[float]:
        samples, _ = await read_samples(sessions, "model", max_rows=40, seed=seed)
        assert len(samples) == 32  # the share of extra hard rows stays unused
        return list(samples.tokens)

    assert await drawn(1) == await drawn(1) != await drawn(2)


async def test_weighted_draws_represent_every_row_equally(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record]
) -> None:
    """300 rows of one app, a fifth of them hard, and 60 of another; 90 rows, 80 times."""
    large, small = UUID(int=1), UUID(int=2)
    hard = [1.0, 1.0, 500.0, 500.0, 500.0, 500.0]
    fair = [1.0, 5.0, 12.0, 20.0, 30.0, 40.0]
    records = [
        a_sample(
            app_id=large if n < 300 else small,
            quantiles=hard if n % 5 == 0 and n < 300 else fair,
            generation_tokens=n % 17 + 2,
            arrived_at=START + timedelta(seconds=n),
        )
        for n in range(360)
    ]
    await store(records)
    draws: Counter[datetime] = Counter()
    weight_sums: Counter[datetime] = Counter()
    hard_counts = []
    for seed in range(DRAWS):
        samples, report = await read_samples(sessions, "model", max_rows=90, seed=seed)
        assert samples.weights is not None
        hard_counts.append(report["hard"])
        draws.update(samples.arrived)
        for when, weight in zip(samples.arrived, samples.weights, strict=True):
            weight_sums[when] += weight * 360 / len(samples)
    easy = [draws[r.arrived_at] for r in records[:300] if not r.hard]
    assert min(easy) > 0  # a share of about 0.2
    assert np.mean(hard_counts) > 72 * (60 / 360)  # more than their share of the core
    each = np.array([weight_sums[record.arrived_at] / DRAWS for record in records])
    assert each.mean() == pytest.approx(1)
    for part in (each[:300], each[300:], each[:300:5]):
        assert part.mean() == pytest.approx(1, abs=0.12)


async def test_hard_rows_are_those_with_a_wrong_served_median(
    a_sample: Callable[..., Record],
) -> None:
    def hard(median: float, tokens: int, *, censored: bool = False) -> bool:
        record = a_sample(
            quantiles=[0.0, 0.0, median, 0.0, 0.0, 0.0], generation_tokens=tokens, censored=censored
        )
        return record.hard

    assert not hard(10, 20)
    assert hard(10, 21)
    assert hard(31, 20)
    assert not hard(190, 210)
    assert hard(180, 210)
    assert not hard(200, 20, censored=True)
    assert hard(20, 200, censored=True)


async def test_embeddings_of_another_embedder_are_not_read(
    sessions: Sessions, store: StoreRecords, a_sample: Callable[..., Record]
) -> None:
    own = {"input_embedding": SENTENCE, "instruction_embedding": SENTENCE}
    await store(
        [
            a_sample(embedder=EMBEDDER.id, instruction_hash=b"a", **own),
            a_sample(embedder="other@1", instruction_hash=b"b", **own),
            a_sample(embedder="other@1", instruction_hash=b"a", **own),
            a_sample(),
        ]
    )
    samples, _ = await read_samples(sessions, "model", embedder=EMBEDDER)
    assert sorted(samples.inputs.embedded.tolist()) == [False, False, False, True]
    known = ~np.isnan(samples.inputs.instructions).any(axis=1)
    assert known.sum() == 1
    other = EmbedderModel("elsewhere", "other@1", EMBEDDER.dims)
    samples, _ = await read_samples(sessions, "model", embedder=other)
    assert samples.inputs.embedded.sum() == 2


async def test_opted_out_tenant_is_not_trained_on_and_keeps_its_usage_alone(
    *,
    sessions: Sessions,
    store: StoreRecords,
    build: Builder,
    a_sample: Callable[..., Record],
    database: Database,
) -> None:
    private, open_to = (await build.tenant()).id, (await build.tenant()).id
    personal = {
        "end_user": "ursula",
        "embedding": TEXT,
        "instruction_hash": b"h",
        "instruction_embedding": bytes(768),
        "input_embedding": SENTENCE,
        "embedder": EMBEDDER.id,
    }
    before = a_sample(tenant_id=private, generation_tokens=50, **personal)
    await store([before])
    await Tenants(sessions).change(private, learning=False, by="olga")
    after = a_sample(
        tenant_id=private,
        generation_tokens=60,
        **personal | {"instruction_hash": b"private", "app_id": new_id()},
    )
    theirs = a_sample(tenant_id=open_to, app_id=new_id(), generation_tokens=70)
    await store([after, theirs])
    samples, report = await read_samples(sessions, "model")
    assert samples.tokens.tolist() == [70]
    assert report["tenants"][str(private)] == {"found": 0, "read": 0, "opted_out": 1, "erased": 1}
    assert report["tenants"][str(open_to)] == {"found": 1, "read": 1, "opted_out": 0, "erased": 0}
    async with database.engine.connect() as connection:
        kept = await connection.execute(
            text(
                "SELECT generation_tokens, end_user, embedding, input_embedding, embedder, "
                "features, instruction_hash FROM requests WHERE id = :id"
            ),
            {"id": after.id},
        )
        assert kept.one() == (60, None, None, None, None, b"", b"")
        hashes = await connection.execute(text("SELECT hash FROM instructions"))
        assert list(hashes.scalars()) == [b"h"]


async def test_erased_tenant_is_gone_from_the_next_training_set(
    *,
    sessions: Sessions,
    store: StoreRecords,
    build: Builder,
    a_sample: Callable[..., Record],
    database: Database,
) -> None:
    gone, stays = (await build.tenant()).id, (await build.tenant()).id

    def rows(tenant: UUID, app: int, *hashes: bytes) -> list[Record]:
        own = {
            "tenant_id": tenant,
            "app_id": UUID(int=app),
            "end_user": "u",
            "embedding": TEXT,
            "input_embedding": SENTENCE,
            "embedder": EMBEDDER.id,
            "first_scored": bytes(12),
        }
        return [
            a_sample(instruction_hash=hash_, instruction_embedding=bytes(768), **own)
            for hash_ in hashes
        ]

    await store([*rows(gone, 5, b"shared", b"own", b"own"), *rows(stays, 6, b"shared")])
    erased = await SampleErasure(sessions).erase(gone, None, by="olga")
    assert (erased.rows, erased.instructions) == (3, 1)
    assert (await SampleErasure(sessions).erase(gone, None, by="olga")).rows == 0
    _, report = await read_samples(sessions, "model")
    assert report["tenants"][str(gone)] == {"found": 0, "read": 0, "opted_out": 0, "erased": 3}
    assert report["tenants"][str(stays)]["read"] == 1
    async with database.engine.connect() as connection:
        left = await connection.execute(
            text(
                "SELECT count(*), count(end_user), count(embedding), count(input_embedding), "
                "count(embedder), count(first_scored), sum(generation_tokens) FROM requests "
                "WHERE tenant_id = :id"
            ),
            {"id": gone},
        )
        assert left.one() == (3, 0, 0, 0, 0, 0, 36)
        assert list(await connection.scalars(text("SELECT hash FROM instructions"))) == [b"shared"]


async def test_erasing_a_user_leaves_the_others_of_the_tenant(
    sessions: Sessions, store: StoreRecords, build: Builder, a_sample: Callable[..., Record]
) -> None:
    tenant = (await build.tenant()).id
    users = ("ursula", "ursula", "uwe", None)
    await store([a_sample(tenant_id=tenant, end_user=user) for user in users])
    erased = await SampleErasure(sessions).erase(tenant, "ursula", by="olga")
    assert (erased.rows, erased.instructions) == (2, 0)
    samples, report = await read_samples(sessions, "model")
    assert len(samples) == 2
    assert report["tenants"][str(tenant)] == {"found": 2, "read": 2, "opted_out": 0, "erased": 2}


DRAW = f"""
    EXPLAIN SELECT arrived_at, id, tenant_id FROM requests
    WHERE {LEARNABLE} AND app_id = :app AND hard = false AND uuid_hash_extended(id, 0) >= 5
    ORDER BY uuid_hash_extended(id, 0) LIMIT 10
"""
COUNT = f"""
    EXPLAIN SELECT app_id, tenant_id, hard, count(*) FROM requests
    WHERE {LEARNABLE} AND app_id = :app GROUP BY 1, 2, 3
"""


@pytest.mark.parametrize(
    ("statement", "sorts"), [(DRAW, False), (COUNT, True)], ids=["draw", "count"]
)
async def test_draw_and_count_are_index_only_scans(
    store: StoreRecords,
    a_sample: Callable[..., Record],
    database: Database,
    statement: str,
    *,
    sorts: bool,
) -> None:
    """The count may sort its groups; the draw reads the index in its order."""
    await store([a_sample() for _ in range(2_000)])
    since = datetime.fromtimestamp(0, UTC)
    given = {
        "model": "model",
        "version": FEATURE_VERSION,
        "app": UUID(int=2),
        "since": since,
        "latest": datetime.now(UTC),
    }
    async with database.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE requests"))
    async with database.engine.begin() as connection:
        for scan in ("seqscan", "bitmapscan"):
            await connection.execute(text(f"SET LOCAL enable_{scan} = off"))
        steps = " ".join((await connection.execute(text(statement), given)).scalars())
    assert "Index Only Scan using ix_requests_sampling" in steps
    assert sorts or "Sort" not in steps


async def test_erasure_in_batches_skips_no_row(
    *,
    sessions: Sessions,
    store: StoreRecords,
    build: Builder,
    a_sample: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.prediction.lifecycle.erasure.BATCH_ROWS", 2)
    tenant = (await build.tenant()).id
    await store([a_sample(tenant_id=tenant, arrived_at=START) for _ in range(3)])
    await store([a_sample(tenant_id=tenant, app_id=new_id(), end_user="u") for _ in range(4)])
    assert (await SampleErasure(sessions).erase(tenant, None, by="olga")).rows == 7
    assert len((await read_samples(sessions, "model"))[0]) == 0
