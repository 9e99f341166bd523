"""Inserts of history at a steady rate, alone and while old rows are deleted."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np
from sqlalchemy import text

from benchmarks.g3.callers import MODELS, AppKey
from benchmarks.harness.report import Row, Target, target
from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.retention import HistoryRetention, Kept
from gateway.history.writer import FLUSH_INTERVAL_S, HistoryWriter
from gateway.prediction.features.features import FEATURE_VERSION, NAMES
from gateway.prediction.features.text_encoder import TEXT_DIMS
from models.base import new_id

RATE: Final = 100  # requests a second that arrive
ALONE_S: Final = 20.0
MAX_DELETE_S: Final = 60.0
MAX_INSERT_MS: Final = 1_000.0  # records wait in the spool meanwhile: no request waits for them


@dataclass(frozen=True)
class Inserts:
    """Milliseconds of each group's insertion, from the sealed spool to the commit."""

    taken_ms: list[float]
    records: int
    lasted_s: float


async def insert_steadily(
    sessions: Sessions, folder: Path, keys: list[AppKey], stop: asyncio.Event
) -> Inserts:
    """Record RATE requests a second and insert them in groups, as a gateway does, until `stop`."""
    writer, random = HistoryWriter(sessions, folder), np.random.default_rng(3)
    taken, records, began = [], 0, time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(FLUSH_INTERVAL_S)
        due = int(RATE * (time.monotonic() - began)) - records
        for _ in range(due):
            writer.record(a_record(keys[int(random.integers(len(keys)))], random))
        records += due
        started = time.perf_counter()
        await writer.flush()
        taken.append(1_000 * (time.perf_counter() - started))
    return Inserts(taken, records, time.monotonic() - began)


async def measure(
    sessions: Sessions, folder: Path, keys: list[AppKey], kept_days: float
) -> list[Row]:
    """Inserts alone, then while all that is older than `kept_days` is deleted."""
    stop = asyncio.Event()
    task = asyncio.create_task(insert_steadily(sessions, folder / "alone", keys, stop))
    await asyncio.sleep(ALONE_S)
    stop.set()
    alone = await task
    before = await _older(sessions, kept_days)
    stop = asyncio.Event()
    task = asyncio.create_task(insert_steadily(sessions, folder / "deleting", keys, stop))
    began = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_DELETE_S):
            await HistoryRetention(sessions, Kept(history=kept_days)).sweep()
    lasted_s = time.monotonic() - began
    stop.set()
    meanwhile = await task
    deleted = before - await _older(sessions, kept_days)
    return [row_of("no", alone, None, None), row_of("yes", meanwhile, deleted, lasted_s)]


def row_of(deleting: str, inserts: Inserts, deleted: int | None, lasted_s: float | None) -> Row:
    """What was inserted, and deleted, and how fast."""
    return {
        "part": "retention",
        "deleting": deleting,
        "inserted_per_s": inserts.records / inserts.lasted_s,
        "insert_p50_ms": float(np.median(inserts.taken_ms)),
        "insert_p99_ms": float(np.quantile(inserts.taken_ms, 0.99)),
        "deleted": deleted,
        "deleted_per_s": None if deleted is None or not lasted_s else deleted / lasted_s,
    }


def targets(rows: list[Row]) -> Iterator[Target]:
    """Rows are deleted at least as fast as they arrive, and inserts are not held up."""
    for row in rows:
        if row["part"] == "retention" and row["deleting"] == "yes":
            yield target(f"rows deleted a second, at {RATE} arriving", row["deleted_per_s"], RATE)
            yield target(
                "insert of a group while rows are deleted: p99 ms",
                row["insert_p99_ms"],
                MAX_INSERT_MS,
                "at most",
            )


async def _older(sessions: Sessions, days: float) -> int:
    before = datetime.now(UTC) - timedelta(days=days)
    async with sessions() as session:
        found = await session.scalar(
            text("SELECT count(*) FROM requests WHERE arrived_at < :before"), {"before": before}
        )
    return int(found or 0)


def a_record(key: AppKey, random: np.random.Generator) -> Record:
    """A record of a request that ended now, with an answer of random length."""
    tokens = int(random.integers(1, 700))
    return Record(
        arrived_at=datetime.now(UTC),
        id=new_id(),
        tenant_id=key.tenant_id,
        app_id=key.app_id,
        api_key_id=key.key_id,
        end_user=f"user-{key.rank}-{random.integers(500)}" if key.names_users else None,
        model=MODELS[0],
        streamed=True,
        prompt_tokens=200,
        user_input_tokens=100,
        max_tokens=2048,
        temperature=1.0,
        top_p=1.0,
        quantiles=[40.0, 90.0, 160.0, 240.0, 330.0, 420.0],
        prediction_source="model",
        predictor_id=None,
        feature_version=FEATURE_VERSION,
        features=random.random(len(NAMES), np.float32).tobytes(),
        instruction_hash=key.app_id.bytes,
        instruction_embedding=None,
        embedding=random.random(TEXT_DIMS).astype(np.float16).tobytes(),
        generation_tokens=tokens,
        finish_reason="stop",
        censored=False,
        policy="lmaas",
        batch_id="b-1",
        batch_size=8,
        preemptions=0,
        queued_s=0.05,
        first_token_s=0.15,
        response_s=0.15 + tokens * 0.02,
        service_tier="default",
        gateway_id=UUID(int=1),
        cached_tokens=50,
    )
