"""Inserts the lines of a job, and ranks them."""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection
from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.jobs.batches.states import LineState
from models import BatchLine

COLUMNS: Final = (
    "batch_id",
    "number",
    "custom_id",
    "body",
    "prompt_tokens",
    "predicted_tokens",
    "page_hashes",
    "rank",
    "state",
    "result",
)
COPY: Final = f"COPY batch_lines ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
TYPES: Final = (
    *("uuid", "int4", "text", "bytea", "int4", "float4", "bytea", "int4", "int2", "bytea"),
)
RANK: Final = text(
    "UPDATE batch_lines SET rank = given.rank, "
    "prefix_id = given.prefix_id, prefix_tokens = given.prefix_tokens, "
    "outer_prefix_id = given.outer_id, outer_prefix_tokens = given.outer_tokens FROM unnest("
    "CAST(:numbers AS int[]), CAST(:ranks AS int[]), CAST(:prefix_ids AS text[]), "
    "CAST(:prefix_tokens AS int[]), CAST(:outer_ids AS text[]), CAST(:outer_tokens AS int[])) "
    "AS given (number, rank, prefix_id, prefix_tokens, outer_id, outer_tokens) "
    "WHERE batch_lines.batch_id = :batch_id AND batch_lines.number = given.number "
    "AND batch_lines.state = 0"  # others may be locked by who ends them
)
REORDER: Final = text(
    "UPDATE batch_lines SET rank = given.rank FROM unnest("
    "CAST(:numbers AS int[]), CAST(:ranks AS int[])) AS given (number, rank) "
    "WHERE batch_lines.batch_id = :batch_id AND batch_lines.number = given.number "
    "AND batch_lines.state = 0"
)
RANKED_AT_ONCE: Final = 5_000


class NewLine(Struct, frozen=True, kw_only=True):
    """A line to insert: one that waits, or one that has failed and has its result already."""

    number: int
    custom_id: str | None
    body: bytes | None = None
    prompt_tokens: int = 0
    predicted_tokens: float = 0.0
    page_hashes: bytes = b""
    result: bytes | None = None

    @property
    def failed(self) -> bool:
        """Whether the line is not going to run."""
        return self.result is not None


class Prefix(NamedTuple):
    """A prefix that lines share; 0 tokens: none."""

    id: str | None = None
    tokens: int = 0


class RankedLine(Struct, frozen=True):
    """Where a line comes in its job, the prefix that it shares with others, and the outermost one.

    There is an `outer` prefix if the line's group is inside others.
    """

    number: int
    rank: int
    prefix: Prefix = Prefix()
    outer: Prefix = Prefix()


async def insert_lines(session: AsyncSession, batch_id: UUID, lines: Sequence[NewLine]) -> None:
    """Add lines, ranked as they are numbered."""
    raw = await (await session.connection()).get_raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, AsyncConnection), "the driver is psycopg"
    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.set_types(TYPES)
        for line in lines:
            await copy.write_row(
                (
                    batch_id,
                    line.number,
                    line.custom_id,
                    line.body,
                    line.prompt_tokens,
                    line.predicted_tokens,
                    line.page_hashes,
                    line.number,
                    int(LineState.FAILED if line.failed else LineState.WAITING),
                    line.result,
                )
            )


async def store_ranks(session: AsyncSession, batch_id: UUID, lines: Sequence[RankedLine]) -> None:
    """Set the rank and the shared prefix of lines, of those that still wait."""
    for begin in range(0, len(lines), RANKED_AT_ONCE):
        part = lines[begin : begin + RANKED_AT_ONCE]
        given = {
            "numbers": [line.number for line in part],
            "ranks": [line.rank for line in part],
            "prefix_ids": [line.prefix.id for line in part],
            "prefix_tokens": [line.prefix.tokens for line in part],
            "outer_ids": [line.outer.id for line in part],
            "outer_tokens": [line.outer.tokens for line in part],
        }
        await session.execute(RANK, {"batch_id": batch_id, **given})


async def reorder(session: AsyncSession, batch_id: UUID, ranks: Sequence[tuple[int, int]]) -> None:
    """Set the rank of lines, each a number and its rank, of those that still wait."""
    for begin in range(0, len(ranks), RANKED_AT_ONCE):
        numbers, places = zip(*ranks[begin : begin + RANKED_AT_ONCE], strict=True)
        given = {"numbers": list(numbers), "ranks": list(places)}
        await session.execute(REORDER, {"batch_id": batch_id, **given})


async def lock_order(
    session: AsyncSession, tenant_id: UUID, model: str, *, wait: bool = True
) -> bool:
    """Until the transaction ends, be the only one to rank lines of jobs of a tenant and model.

    False if another is at it and we do not `wait`.
    """
    key = func.hashtextextended(f"batch order {tenant_id.hex} {model}", 0)
    if wait:
        await session.execute(select(func.pg_advisory_xact_lock(key)))
        return True
    return bool(await session.scalar(select(func.pg_try_advisory_xact_lock(key))))


async def opened_prefixes(
    session: AsyncSession, jobs: Sequence[UUID], owner: UUID | None = None
) -> frozenset[str]:
    """The prefixes with which lines of these jobs run: at any gateway, or at the owner's."""
    running = select(BatchLine.prefix_id).where(
        BatchLine.batch_id.in_(jobs),
        BatchLine.state == LineState.RUNNING,
        BatchLine.prefix_id.is_not(None),
    )
    if owner is not None:
        running = running.where(BatchLine.claimed_by == owner)
    return frozenset(prefix for prefix in await session.scalars(running.distinct()) if prefix)


async def delete_lines(session: AsyncSession, batch_id: UUID) -> None:
    """Delete all lines of a job."""
    await session.execute(delete(BatchLine).where(BatchLine.batch_id == batch_id))
