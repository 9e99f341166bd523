"""Ranks the waiting lines of a job again when its first outcomes say that groups move.

A gateway learns from the lines that it has started itself, the running ones included: of all lines
that it started, none is left out because it takes long.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final
from uuid import UUID

import numpy as np
import structlog
from msgspec import Struct, field
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.generation.request_state import RequestState
from gateway.jobs.batches.claims.attempts import is_outage
from gateway.jobs.batches.lines import lock_order, opened_prefixes, reorder
from gateway.jobs.batches.states import LineState
from gateway.jobs.planning.length_correction import (
    LengthCorrection,
    LineOutcomes,
    learn_correction,
)
from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.prefix_groups import ALONE, PrefixGroups
from gateway.quantiles import LEVELS
from models import Batch, BatchLine

log = structlog.get_logger()

FIRST: Final = 16  # outcomes; then whenever they have doubled
LAST: Final = 2_048
MAX_JOBS: Final = 64  # that are remembered
NO_LABEL: Final = -1


class Started(Struct, frozen=True):
    """A line that started: its prediction, its tokens so far, and whether it ended by itself."""

    quantiles: Sequence[float]
    generated: int
    ended: bool
    prefix_id: str | None

    @classmethod
    def of(cls, state: RequestState) -> "Started":
        """A line by the state of its first choice."""
        prefix = state.request.prefix
        return cls(
            state.prediction.quantiles,
            len(state.tokens),
            state.finish_reason == "stop",
            prefix.id if prefix else None,
        )


class _Job(Struct):
    """The ended lines of a job, when to learn from them, and what its lines are ranked by."""

    ended: list[Started] = field(default_factory=list)
    due: int = FIRST
    shifts: dict[str | None, float] = field(default_factory=dict)


class JobCorrections:
    """Corrects the order of the jobs' lines by the outcomes of this gateway's."""

    def __init__(
        self,
        sessions: Sessions,
        running: Callable[[UUID], Iterable[RequestState]],
        faults: MutableMapping[str, int],
    ) -> None:
        """`running`: the states of a job's lines that run here. `faults` counts failed rankings."""
        self._sessions = sessions
        self._faults = faults
        self._running = running
        self._jobs: OrderedDict[UUID, _Job] = OrderedDict()

    def observe(self, batch_id: UUID, state: RequestState) -> None:
        """Note a line that has ended."""
        job = self._jobs.setdefault(batch_id, _Job())
        self._jobs.move_to_end(batch_id)
        if len(job.ended) < LAST:
            job.ended.append(Started.of(state))
        while len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)

    def reranked(self, batch_id: UUID) -> None:
        """A job's lines have been ranked by their predictions alone: correct them soon."""
        job = self._jobs.get(batch_id)
        if job is not None:
            job.shifts, job.due = {}, FIRST

    async def apply(self) -> None:
        """Rank jobs again for which enough has been learned. DatabaseLost.

        A job that cannot be ranked keeps its order until twice as much has been learned.
        """
        for batch_id, job in list(self._jobs.items()):
            if len(job.ended) < job.due:
                continue
            try:
                await self._apply(batch_id, job)
            except Exception as error:
                if is_outage(error):
                    raise
                self._faults["order"] += 1
                log.exception("batch_not_ranked_again", batch=str(batch_id))
            job.due = 2 * len(job.ended) if len(job.ended) < LAST else LAST + 1

    async def _apply(self, batch_id: UUID, job: _Job) -> None:
        """Learn from a job's lines, and rank those that wait if that changes their order."""
        started = job.ended + [Started.of(state) for state in self._running(batch_id)]
        labels = sorted({line.prefix_id for line in started if line.prefix_id})
        learned = await asyncio.to_thread(_learn, started, labels)
        if learned.reorders(_ranked_by(job, labels)):
            lines = await self._rank(batch_id, labels, learned)
            job.shifts = dict(zip([*labels, None], learned.shifts.tolist(), strict=True))
            log.info("batch_ranked_again", batch=str(batch_id), lines=lines)

    async def _rank(self, batch_id: UUID, labels: Sequence[str], learned: LengthCorrection) -> int:
        """Rank the waiting lines of a job; their number.

        0 if another gateway is at it, or the job is gone.
        """
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            batch = await session.get(Batch, batch_id)
            if batch is None:  # deleted with its tenant
                return 0
            if not await lock_order(session, batch.tenant_id, batch.model, wait=False):
                return 0
            rows = await _waiting(session, batch_id)
            opened = await opened_prefixes(session, [batch_id])
            ranked = await asyncio.to_thread(_ranked, rows, opened, labels, learned)
            await reorder(session, batch_id, ranked)
        return len(ranked)


async def _waiting(session: AsyncSession, batch_id: UUID) -> Sequence[Row[Any]]:
    statement = select(
        BatchLine.number,
        BatchLine.prefix_id,
        BatchLine.prefix_tokens,
        BatchLine.outer_prefix_id,
        BatchLine.outer_prefix_tokens,
        BatchLine.prompt_tokens,
        BatchLine.predicted_tokens,
    ).where(BatchLine.batch_id == batch_id, BatchLine.state == LineState.WAITING)
    rows: Sequence[Any] = (await session.execute(statement.order_by(BatchLine.number))).all()
    return rows


def _learn(started: Sequence[Started], labels: Sequence[str]) -> LengthCorrection:
    places = {label: place for place, label in enumerate(labels)}
    outcomes = LineOutcomes(
        quantiles=np.array([line.quantiles for line in started]).reshape(-1, len(LEVELS)),
        generated=np.array([line.generated for line in started], np.int64),
        ended=np.array([line.ended for line in started], np.bool_),
        labels=np.array([places.get(line.prefix_id or "", NO_LABEL) for line in started], np.int64),
    )
    return learn_correction(outcomes, len(labels))


def _ranked_by(job: _Job, labels: Sequence[str]) -> LengthCorrection:
    """The correction that the lines are ranked by, for these labels."""
    common = job.shifts.get(None, 0.0)
    shifts = np.array([*(job.shifts.get(label, common) for label in labels), common])
    return LengthCorrection(shifts, np.ones(len(shifts)))


def _groups(rows: Sequence[Row[Any]]) -> tuple[PrefixGroups, list[str]]:
    """The groups of these lines in up to two levels, and their prefixes."""
    outer = {row.outer_prefix_id: row.outer_prefix_tokens for row in rows if row.outer_prefix_id}
    around = {row.prefix_id: row.outer_prefix_id for row in rows if row.prefix_id}
    tokens = outer | {row.prefix_id: row.prefix_tokens for row in rows if row.prefix_id}
    places = {prefix: place for place, prefix in enumerate(tokens)}
    groups = PrefixGroups(
        np.array([places.get(row.prefix_id, ALONE) for row in rows], np.int64),
        np.array(list(tokens.values()), np.int64),
        np.array([places.get(around.get(prefix), ALONE) for prefix in tokens], np.int64),
    )
    return groups, list(tokens)


def _ranked(
    rows: Sequence[Row[Any]],
    opened: AbstractSet[str],
    labels: Sequence[str],
    learned: LengthCorrection,
) -> list[tuple[int, int]]:
    """The numbers and ranks of the waiting lines by the corrected lengths."""
    groups, prefixes = _groups(rows)
    factors = dict(zip(labels, np.exp(learned.shifts).tolist(), strict=False))
    common = float(np.exp(learned.shifts[-1]))
    expected = np.array(
        [row.predicted_tokens * factors.get(row.prefix_id, common) for row in rows], np.float64
    )
    ranks = rank_lines(
        groups,
        np.array([row.prompt_tokens for row in rows], np.int64),
        expected,
        np.array([prefix in opened for prefix in prefixes], np.bool_),
    )
    return list(zip((row.number for row in rows), ranks.tolist(), strict=True))
