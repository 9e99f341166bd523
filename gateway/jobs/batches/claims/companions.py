"""Lines of a tenant's other jobs that share a prefix with the lines of one: they go along.

So a prefix is computed once for all jobs. A job is delayed by lines of others, so they go along
only if they are due alike, and where it pays: where computing the prefix again would cost more than
a small part of their own work.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.jobs.batches.progress.work import PROMPT_WORK
from gateway.jobs.batches.states import LineState
from models import BatchLine

Place: TypeAlias = tuple[UUID, int]
"""A line: its job and its number."""

WORTH: Final = 8.0  # times the prefix's work, which the lines that go along may have together
MOST_LINES: Final = 4_096  # that go along with a group
PAYING: Final = text(
    "SELECT wanted.prefix_id FROM unnest(CAST(:prefixes AS text[])) AS wanted (prefix_id) "
    "CROSS JOIN LATERAL (SELECT count(*) AS lines, min(prefix_tokens) AS prefix_tokens, "
    "sum(predicted_tokens + :prompt_work * (prompt_tokens - prefix_tokens)) AS work FROM ("
    "SELECT prompt_tokens, prefix_tokens, predicted_tokens FROM batch_lines "
    "WHERE batch_id = ANY(:jobs) AND batch_lines.prefix_id = wanted.prefix_id AND state = 0 "
    "LIMIT :most + 1) AS counted) AS found "
    "WHERE lines BETWEEN 1 AND :most AND work <= :worth * :prompt_work * prefix_tokens"
)


class NextLine(Struct, frozen=True):
    """A line of the job whose turn it is, and the prefix of its group, if it has one."""

    place: Place
    prefix_id: str | None


def due_alike(left_s: float, other_left_s: float) -> bool:
    """Whether a job due in `other_left_s` may delay one that is due in `left_s`.

    It may if the one has at least as much time left as the other is due after it.
    """
    return other_left_s - left_s <= left_s


async def find_companions(
    session: AsyncSession, jobs: Sequence[UUID], prefixes: Iterable[str], count: int
) -> dict[str, list[Place]]:
    """Waiting lines of these jobs to go along, by prefix: up to `count`, locked; job by job."""
    given = {"prefixes": sorted(prefixes), "jobs": list(jobs), "most": MOST_LINES}
    weights = {"prompt_work": PROMPT_WORK, "worth": WORTH}
    paying = list(await session.scalars(PAYING, given | weights))
    if not paying:
        return {}
    waiting = (
        select(BatchLine.batch_id, BatchLine.number, BatchLine.prefix_id)
        .where(
            BatchLine.batch_id.in_(jobs),
            BatchLine.prefix_id.in_(paying),
            BatchLine.state == LineState.WAITING,
        )
        .order_by(BatchLine.rank)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    turn = {job: place for place, job in enumerate(jobs)}
    rows: Sequence[Any] = (await session.execute(waiting)).all()
    found: dict[str, list[Place]] = {}
    for row in sorted(rows, key=lambda row: turn[row.batch_id]):
        found.setdefault(row.prefix_id, []).append((row.batch_id, row.number))
    return found


def with_companions(
    lines: Sequence[NextLine], following: str | None, companions: Mapping[str, Sequence[Place]]
) -> list[Place]:
    """The order in which the lines and their companions start.

    Companions follow the last of their group's `lines`; those of a group that has none here were
    to follow earlier lines, and come first. They wait if the group goes on with the job's next
    line, whose prefix is `following`.
    """
    last = {line.prefix_id: place for place, line in enumerate(lines) if line.prefix_id}
    order = [
        place
        for prefix, places in companions.items()
        if prefix not in last and prefix != following
        for place in places
    ]
    for number, line in enumerate(lines):
        order.append(line.place)
        prefix = line.prefix_id
        if prefix is not None and last[prefix] == number and prefix != following:
            order += companions.get(prefix, ())
    return order
