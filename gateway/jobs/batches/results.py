"""Writes the results of lines, each once."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Row, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.jobs.batches.progress.work import work_of
from gateway.jobs.batches.states import LineState
from models import Batch, BatchLine

# A line that its gateway no longer owns is left alone: it waits again, runs elsewhere, or has ended
# with its job.
END: Final = text(
    "UPDATE batch_lines AS line SET state = given.state, result = given.result, "
    "generated_tokens = given.tokens, claimed_by = NULL, "
    "attempts = attempts - (given.state = 0)::int FROM unnest("
    "CAST(:batches AS uuid[]), CAST(:numbers AS int[]), CAST(:states AS smallint[]), "
    "CAST(:results AS bytea[]), CAST(:tokens AS int[]), CAST(:cached AS int[])) "
    "AS given (batch_id, number, state, result, tokens, cached) "
    "WHERE line.batch_id = given.batch_id AND line.number = given.number "
    "AND line.state = 1 AND line.claimed_by = :owner "
    "RETURNING line.batch_id, line.number, given.state, line.prompt_tokens, line.prefix_tokens, "
    "line.predicted_tokens, given.tokens, given.cached"
)


class LineResult(Struct, frozen=True, kw_only=True):
    """What a line ended with: COMPLETED or FAILED with its result, or WAITING to run again,
    which does not count as an attempt.
    """

    batch_id: UUID
    number: int
    state: LineState
    result: bytes | None = None
    generated_tokens: int = 0
    cached_tokens: int = 0


class _Counts(Struct):
    """What the lines that ended add to their job."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    work: float = 0.0


async def write_results(
    session: AsyncSession, owner: UUID, results: Sequence[LineResult]
) -> set[tuple[UUID, int]]:
    """End lines and count them in their jobs; returns those that were still the owner's."""
    jobs = sorted({result.batch_id for result in results})
    # In one order, and before the lines: no two transactions wait for each other.
    await session.execute(
        select(Batch.id).where(Batch.id.in_(jobs)).order_by(Batch.id).with_for_update()
    )
    given = {
        "batches": [result.batch_id for result in results],
        "numbers": [result.number for result in results],
        "states": [int(result.state) for result in results],
        "results": [result.result for result in results],
        "tokens": [result.generated_tokens for result in results],
        "cached": [result.cached_tokens for result in results],
    }
    rows: Sequence[Row[Any]] = (await session.execute(END, {"owner": owner, **given})).all()
    for batch_id, counts in _counted(rows).items():
        await session.execute(
            update(Batch)
            .where(Batch.id == batch_id)
            .values(
                completed=Batch.completed + counts.completed,
                failed=Batch.failed + counts.failed,
                input_tokens=Batch.input_tokens + counts.input_tokens,
                cached_tokens=Batch.cached_tokens + counts.cached_tokens,
                output_tokens=Batch.output_tokens + counts.output_tokens,
                work_done=Batch.work_done + counts.work,
            )
        )
    return {(row.batch_id, row.number) for row in rows}


def _counted(rows: Sequence[Row[Any]]) -> dict[UUID, _Counts]:
    found: dict[UUID, _Counts] = defaultdict(_Counts)
    for row in rows:
        if row.state == LineState.WAITING:
            continue
        counts = found[row.batch_id]
        counts.work += work_of(row.predicted_tokens, row.prompt_tokens - row.prefix_tokens)
        if row.state == LineState.COMPLETED:
            counts.completed += 1
            counts.input_tokens += row.prompt_tokens
            counts.cached_tokens += row.cached
            counts.output_tokens += row.tokens
        else:
            counts.failed += 1
    return found


async def owned_elsewhere(
    session: AsyncSession, owner: UUID, lines: Sequence[tuple[UUID, int]]
) -> set[tuple[UUID, int]]:
    """Of these lines, those that are not the owner's any more: cancelled, expired or freed."""
    kept = select(BatchLine.batch_id, BatchLine.number).where(
        BatchLine.claimed_by == owner, BatchLine.state == LineState.RUNNING
    )
    ours = {(row.batch_id, row.number) for row in await session.execute(kept)}
    return set(lines) - ours
