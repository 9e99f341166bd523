"""Finished requests as a training set, read from history."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, translated
from gateway.prediction.features import FEATURE_VERSION, NAMES
from gateway.prediction.inputs import EMBEDDING_DIMS, Inputs, embedding_from
from gateway.prediction.messages import LEVELS
from gateway.prediction.survival import Bools, Floats
from models import Instruction, RequestRecord

MOST_ROWS: Final = 50_000  # the newest; older ones tell of another world
CHUNK_ROWS: Final = 2_000
FEATURE_BYTES: Final = len(NAMES) * np.dtype(np.float32).itemsize
MISSING: Final = np.full(EMBEDDING_DIMS, np.nan, dtype=np.float16).tobytes()


@dataclass(frozen=True, kw_only=True)
class Samples:
    """n finished requests, oldest first; columns (n,), `served` (n, len(LEVELS)) in tokens.

    `served` is what was predicted at the time.
    """

    inputs: Inputs
    tokens: Floats
    censored: Bools
    max_tokens: Floats
    served: Floats
    arrived: list[datetime]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def natural(self) -> int:
        """How many ended by themselves."""
        return int((~self.censored).sum())

    def rows(self, start: int, stop: int) -> "Samples":
        """The samples from `start` to before `stop`."""
        part = slice(start, stop)
        return Samples(
            inputs=self.inputs.rows(start, stop),
            tokens=self.tokens[part],
            censored=self.censored[part],
            max_tokens=self.max_tokens[part],
            served=self.served[part],
            arrived=self.arrived[part],
        )


async def read_samples(sessions: Sessions, model: str, most: int = MOST_ROWS) -> Samples:
    """The newest outcomes of a model with features of this version, in one streaming read.

    Left out are those cut off before their first token: they say nothing of a length.
    """
    newest = (
        select(
            RequestRecord.app_id,
            RequestRecord.features,
            RequestRecord.instruction_hash,
            RequestRecord.embedding,
            RequestRecord.generation_tokens,
            RequestRecord.censored,
            RequestRecord.max_tokens,
            RequestRecord.quantiles,
            RequestRecord.arrived_at,
        )
        .where(RequestRecord.model == model, RequestRecord.feature_version == FEATURE_VERSION)
        .where(func.octet_length(RequestRecord.features) == FEATURE_BYTES)
        .where(~RequestRecord.censored | (RequestRecord.generation_tokens > 0))
        .order_by(RequestRecord.arrived_at.desc())
        .limit(most)
        .execution_options(yield_per=CHUNK_ROWS)
    )
    columns = _Columns()
    with translated():
        async with sessions() as session:
            async for row in await session.stream(newest):
                columns.add(row)
            instructions = await _instructions(session, list(columns.hashes))
    return columns.samples(instructions)


async def _instructions(session: AsyncSession, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for start in range(0, len(hashes), CHUNK_ROWS):
        wanted = hashes[start : start + CHUNK_ROWS]
        rows = await session.execute(
            select(Instruction.hash, Instruction.embedding).where(Instruction.hash.in_(wanted))
        )
        found.update((hash_, embedding) for hash_, embedding in rows)
    return found


class _Columns:
    """Gathers rows, newest first, in little memory."""

    def __init__(self) -> None:
        self.hashes: dict[bytes, int] = {}
        self._apps: list[UUID] = []
        self._features = bytearray()
        self._embeddings = bytearray()
        self._served = array("d")
        self._numbers = array("d")  # instruction, tokens, censored, max_tokens
        self._arrived: list[datetime] = []

    def add(self, row: Any) -> None:
        """One row of `read_samples`."""
        self._apps.append(row.app_id)
        self._features += row.features
        self._embeddings += MISSING if row.embedding is None else row.embedding
        self._served.extend(row.quantiles)
        number = self.hashes.setdefault(row.instruction_hash, len(self.hashes))
        self._numbers.extend((number, row.generation_tokens, row.censored, row.max_tokens))
        self._arrived.append(row.arrived_at)

    def samples(self, instructions: dict[bytes, bytes]) -> Samples:
        numbers = np.array(self._numbers).reshape(-1, 4)[::-1]
        features = np.frombuffer(bytes(self._features), np.float32).reshape(-1, len(NAMES))
        embeddings = np.frombuffer(bytes(self._embeddings), np.float16)
        rows = [embedding_from(instructions.get(hash_)) for hash_ in self.hashes]
        return Samples(
            inputs=Inputs(
                apps=self._apps[::-1],
                features=features[::-1],
                instructions=np.array(rows, dtype=np.float32).reshape(-1, EMBEDDING_DIMS),
                instruction_of=numbers[:, 0].astype(np.intp),
                embeddings=embeddings.reshape(-1, EMBEDDING_DIMS)[::-1].astype(np.float32),
            ),
            tokens=numbers[:, 1],
            censored=numbers[:, 2].astype(np.bool_),
            max_tokens=numbers[:, 3],
            served=np.array(self._served).reshape(-1, len(LEVELS))[::-1],
            arrived=self._arrived[::-1],
        )
