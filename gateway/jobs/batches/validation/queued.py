"""The lines that wait in a tenant's other jobs, to be planned together with a new job's."""

from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.jobs.batches.lines import Prefix, opened_prefixes
from gateway.jobs.batches.states import LineState
from gateway.jobs.planning.client import QueuedPrompts
from gateway.jobs.planning.prompt_file import PromptFile
from gateway.jobs.prompts import Ints, PromptPages
from gateway.quantiles import Floats
from models import Batch, BatchLine

MAX_LINES: Final = 100_000  # of other jobs, those due first; and the bytes of their pages
MAX_BYTES: Final = 256 << 20
READ_AT_ONCE: Final = 1_000


class QueuedJobs:
    """The jobs in progress of a tenant and model, and their lines that wait, job after job.

    `seen` are the jobs in progress; those beyond the bounds have no lines here. `job_of` is the
    place of a line's job in `jobs`, `prefixes_of` its prefix and its outer one.
    """

    def __init__(self, pages: PromptFile) -> None:
        self.seen: frozenset[UUID] = frozenset()
        self.jobs: list[UUID] = []
        self.job_of = array("i")
        self.numbers = array("i")
        self.prefixes_of: list[tuple[Prefix, Prefix]] = []
        self.opened: frozenset[str] = frozenset()
        self._pages = pages
        self._prompt_tokens = array("i")
        self._expected = array("f")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def expected(self) -> Floats:
        """Expected tokens of each answer: (lines,)."""
        return np.array(self._expected, np.float64)

    @property
    def prompts(self) -> QueuedPrompts:
        """What a plan needs of the prompts."""
        lengths: Ints = np.array(self._prompt_tokens, np.int64)
        return QueuedPrompts(self._pages, lengths, self.opened)

    async def add(self, place: int, rows: Sequence[Any]) -> None:
        """Note lines of a job. OSError if the disk is full."""
        await self._pages.append(PromptPages.unpacked([row.page_hashes for row in rows]))
        for row in rows:
            self.job_of.append(place)
            self.numbers.append(row.number)
            self.prefixes_of.append(
                (
                    Prefix(row.prefix_id, row.prefix_tokens),
                    Prefix(row.outer_prefix_id, row.outer_prefix_tokens),
                )
            )
            self._prompt_tokens.append(row.prompt_tokens)
            self._expected.append(row.predicted_tokens)


@asynccontextmanager
async def queued_jobs(
    sessions: Sessions, batch: Batch, page_tokens: int
) -> AsyncGenerator[QueuedJobs, None]:
    """What waits in the other jobs of this one's tenant and model, for pages of this size."""
    with closing(PromptFile()) as pages:
        found = QueuedJobs(pages)
        async with transaction(sessions, within_s=LONG_TRANSACTION_S) as session:
            found.seen = await jobs_in_progress(session, batch)
            found.jobs = await _within_bounds(session, found.seen, page_tokens)
            for place, job in enumerate(found.jobs):
                async for rows in _waiting_lines(session, job):
                    await found.add(place, rows)
            found.opened = await opened_prefixes(session, found.jobs)
        yield found


async def jobs_in_progress(session: AsyncSession, batch: Batch) -> frozenset[UUID]:
    """The jobs of the same tenant and model that run."""
    running = select(Batch.id).where(
        Batch.tenant_id == batch.tenant_id,
        Batch.model == batch.model,
        Batch.status == "in_progress",
    )
    return frozenset(await session.scalars(running))


async def _within_bounds(
    session: AsyncSession, jobs: frozenset[UUID], page_tokens: int
) -> list[UUID]:
    """Of these jobs, those to plan with: as many as the bounds permit, the first due first."""
    sizes = (
        select(
            Batch.id,
            func.count().label("lines"),
            func.sum(func.octet_length(BatchLine.page_hashes)).label("size"),
        )
        .join(BatchLine, BatchLine.batch_id == Batch.id)
        .where(
            Batch.id.in_(jobs),
            Batch.page_tokens == page_tokens,
            BatchLine.state == LineState.WAITING,
        )
        .group_by(Batch.id)
        .order_by(Batch.expires_at, Batch.id)
    )
    chosen: list[UUID] = []
    lines = size = 0
    for row in await session.execute(sizes):
        lines, size = lines + row.lines, size + row.size
        if lines > MAX_LINES or size > MAX_BYTES:
            break
        chosen.append(row.id)
    return chosen


async def _waiting_lines(session: AsyncSession, job: UUID) -> AsyncGenerator[Sequence[Any], None]:
    """The waiting lines of a job by number, a part at a time."""
    statement = (
        select(
            BatchLine.number,
            BatchLine.prefix_id,
            BatchLine.prefix_tokens,
            BatchLine.outer_prefix_id,
            BatchLine.outer_prefix_tokens,
            BatchLine.prompt_tokens,
            BatchLine.predicted_tokens,
            BatchLine.page_hashes,
        )
        .where(BatchLine.batch_id == job, BatchLine.state == LineState.WAITING)
        .order_by(BatchLine.number)
    )
    streamed = await session.stream(statement.execution_options(yield_per=READ_AT_ONCE))
    async for part in streamed.partitions():
        yield part
