"""The clients' log against history and usage: nothing lost, nothing doubled."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import func, select

from benchmarks.faults.clients import Answer, Body
from gateway.database.connection import Database
from models import RequestRecord, UsageDay

RECORDS_S: Final = 60.0  # until the last record is in PostgreSQL


class Books(Struct, frozen=True):
    """What history and usage have: choices by request, and the tokens of all answers."""

    choices: Mapping[UUID, int]
    history_tokens: int
    usage_tokens: int


class Reconciled(Struct, frozen=True):
    """How the clients' log and the books agree."""

    lost: int
    doubled: int
    tokens_off: int


async def read_books(url: str, wanted: Sequence[UUID]) -> Books:
    """The books, once history has each of these requests or is late."""
    database = await Database.open(url)
    end_s = time.monotonic() + RECORDS_S
    first = func.coalesce(RequestRecord.first_id, RequestRecord.id)
    tokens = select(func.sum(RequestRecord.generation_tokens))
    used = RequestRecord.finish_reason != "error"  # what failed used nothing
    try:
        while True:
            async with database.sessions() as session:
                rows = await session.execute(select(first, func.count()).group_by(first))
                choices = dict(rows.tuples().all())
                history = await session.scalar(tokens.where(used))
                usage = await session.scalar(select(func.sum(UsageDay.generation_tokens)))
            if choices.keys() >= set(wanted) or time.monotonic() > end_s:
                return Books(choices, int(history or 0), int(usage or 0))
            await asyncio.sleep(0.5)
    finally:
        await database.close()


def reconcile(answers: Sequence[Answer], kinds: Sequence[Body], books: Books) -> Reconciled:
    """Whether each complete answer has one record for each choice, and usage what history has."""
    found = {answer.id: kinds[answer.kind]["n"] for answer in answers if answer.complete}
    return Reconciled(
        lost=sum(books.choices.get(name, 0) < n for name, n in found.items() if name),
        doubled=sum(books.choices.get(name, 0) > n for name, n in found.items() if name),
        tokens_off=abs(books.usage_tokens - books.history_tokens),
    )


def differing(answers: Sequence[Answer], right: Mapping[int, tuple[str, ...]]) -> int:
    """How many complete answers are not, character for character, those of the quiet gateway."""
    return sum(answer.texts != right[answer.kind] for answer in answers if answer.complete)


def failures(answers: Sequence[Answer]) -> Counter[str]:
    """The reasons of failed requests."""
    return Counter(answer.failure for answer in answers if not answer.complete)
