"""Batch jobs on a real database, without an engine: their lines are made by hand."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from sqlalchemy import update

from gateway.database.errors import Sessions
from gateway.files.bounds import FileBounds
from gateway.files.store import FileStore
from gateway.jobs.batches.claims.lease import Lease
from gateway.jobs.batches.ending import BatchEnding
from gateway.jobs.batches.lines import NewLine, Prefix, RankedLine, insert_lines, store_ranks
from models import App, Batch
from models.base import new_id
from tests.conftest import Builder

MODEL = "a model"
MakeJob: TypeAlias = Callable[..., Awaitable[Batch]]


class Gateway:
    """What one gateway does with jobs."""

    def __init__(self, sessions: Sessions) -> None:
        self.owner = new_id()
        self.sessions = sessions
        self.lease = Lease(sessions, self.owner, lease_s=600.0)
        self.files = FileStore(sessions, FileBounds())
        self.faults = Counter[str]()
        self.ending = BatchEnding(sessions, self.files, MODEL, self.owner, self.faults)

    async def started(self) -> "Gateway":
        await self.lease.renew()
        return self

    async def end_jobs(self) -> None:
        """End all jobs that are to be ended."""
        while (job := await self.ending.claim()) is not None:
            await self.ending.finish(job)

    async def written(self, batch: Batch) -> tuple[list[Any], list[Any]]:
        """The lines of the job's output file and of its error file."""
        return (
            await self._lines(batch.tenant_id, batch.output_file_id),
            await self._lines(batch.tenant_id, batch.error_file_id),
        )

    async def _lines(self, tenant_id: UUID, file_id: UUID | None) -> list[Any]:
        if file_id is None:
            return []
        return [json.loads(line) async for line in self.files.open_lines(tenant_id, file_id)]


async def reload(sessions: Sessions, batch: Batch) -> Batch:
    async with sessions() as session:
        found = await session.get(Batch, batch.id)
    assert found is not None
    return found


async def change(sessions: Sessions, batch: Batch, **values: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(update(Batch).where(Batch.id == batch.id).values(**values))


@pytest.fixture
def make_job(sessions: Sessions, build: Builder) -> MakeJob:
    """Makes a job that runs, of `lines` lines; groups of `group` of them share a prefix."""

    async def make(lines: int, *, app: App | None = None, group: int = 0, **given: Any) -> Batch:
        owner = app or await build.app()
        now = datetime.now(UTC)
        fields: dict[str, Any] = {
            "tenant_id": owner.tenant_id,
            "app_id": owner.id,
            "api_key_id": UUID(int=1),
            "model": MODEL,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": UUID(int=2),
            "status": "in_progress",
            "total": lines,
            "work": 10.0 * lines,
            "in_progress_at": now,
            "expires_at": now + timedelta(hours=24),
        }
        batch = Batch(**{**fields, **given})
        rows = [
            NewLine(
                number=number,
                custom_id=f"line {number}",
                body=b"{}",
                prompt_tokens=20,
                predicted_tokens=10.0,
            )
            for number in range(1, lines + 1)
        ]
        ranks = [
            RankedLine(row.number, row.number, Prefix(f"group {(row.number - 1) // group}", 16))
            for row in rows
            if group
        ]
        async with sessions.begin() as session:
            session.add(batch)
            await session.flush()
            await insert_lines(session, batch.id, rows)
            await store_ranks(session, batch.id, ranks)
        return batch

    return make
