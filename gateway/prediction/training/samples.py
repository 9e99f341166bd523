"""Reads a training set from history: first keys are drawn, then rows fetched."""

from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import structlog
from sqlalchemy import ARRAY, DateTime, Uuid, bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, translated
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.features.features import (
    FEATURE_BYTES,
    FEATURE_VERSION,
    NAMES,
    is_finite,
)
from gateway.prediction.features.text_encoder import TEXT_DIMS
from gateway.prediction.messages import IMPORTED, Form, known_form
from gateway.prediction.model.inputs import ModelInputs, form_codes, unpack_vector
from gateway.prediction.training.sampling import draw_rows
from gateway.quantiles import LEVELS, Bools, Floats
from models import Instruction, RequestRecord

MAX_ROWS: Final = 50_000
CHUNK_ROWS: Final = 2_000
MISSING_TEXT: Final = np.full(TEXT_DIMS, np.nan, dtype=np.float16).tobytes()
TIMESTAMP: Final = DateTime(timezone=True)
EPOCH: Final = datetime.fromtimestamp(0, UTC)

ReadProgress: TypeAlias = Callable[[int, int], Awaitable[None]]

log = structlog.get_logger()


async def _no_progress(read: int, wanted: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """n finished requests, oldest first; columns (n,), `served` (n, len(LEVELS)) in tokens.

    `served` are the quantiles served at the time, for `live` rows: others were imported; None: all
    are live. `weights` are inverse sampling rates with mean 1;
    None: equal weights.
    """

    inputs: ModelInputs
    tokens: Floats
    censored: Bools
    max_tokens: Floats
    served: Floats
    arrived: list[datetime]
    weights: Floats | None = None
    was_live: Bools | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def natural(self) -> int:
        """The number of uncensored samples."""
        return int((~self.censored).sum())

    @property
    def live(self) -> Bools:
        """Which requests were served, (n,)."""
        return np.ones(len(self), np.bool_) if self.was_live is None else self.was_live

    def rows(self, start: int, stop: int) -> "Samples":
        """The samples in [start, stop)."""
        part = slice(start, stop)
        return Samples(
            inputs=self.inputs.rows(part),
            tokens=self.tokens[part],
            censored=self.censored[part],
            max_tokens=self.max_tokens[part],
            served=self.served[part],
            arrived=self.arrived[part],
            weights=None if self.weights is None else self.weights[part],
            was_live=None if self.was_live is None else self.was_live[part],
        )


async def read_samples(
    sessions: Sessions,
    model: str,
    *,
    embedder: EmbedderModel | None = None,
    since: datetime = EPOCH,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
    on_progress: ReadProgress = _no_progress,
) -> tuple[Samples, dict[str, Any]]:
    """Outcomes of a model that arrived since then, and a report of the rows read per tenant.

    At most `max_rows`, drawn as in `sampling`, from one snapshot of history, without requests that
    were cut off before their first token. Rows with numbers that cannot be are left out: the report
    counts them as `unusable`, by what is wrong. `on_progress` gets the rows read so far and in
    total.
    Embeddings are those of the `embedder`, by default the packaged one; others are missing.
    """
    embedder = embedder or packaged_embedder()
    columns, unusable = _Columns(embedder), Counter[str]()
    with translated():
        async with sessions() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            drawn = await draw_rows(
                session, model, FEATURE_VERSION, since=since, max_rows=max_rows, seed=seed
            )
            # The rows are scattered: only a bitmap scan prefetches their pages.
            await session.execute(text("SET LOCAL enable_indexscan = off"))
            if drawn.not_come:
                unusable["time"] = drawn.not_come
            weights = dict(zip(drawn.keys, drawn.weights.tolist(), strict=True))
            for start in range(0, len(drawn.keys), CHUNK_ROWS):
                await on_progress(start, len(drawn.keys))
                part = slice(start, start + CHUNK_ROWS)
                for row in await _fetch(session, drawn.keys[part]):
                    if fault := fault_of(row, embedder):
                        unusable[fault] += 1
                    else:
                        columns.add(row, weights[row.arrived_at, row.id])
            instructions = await _instructions(session, list(columns.hashes), embedder)
    if unusable:
        log.warning("training_rows_unusable", model=model, **unusable)
    return columns.samples(instructions), drawn.report | {"unusable": dict(unusable)}


async def _fetch(session: AsyncSession, keys: Sequence[tuple[datetime, UUID]]) -> Sequence[Any]:
    """The rows with these keys, oldest first."""
    statement = (
        select(
            RequestRecord.id,
            RequestRecord.app_id,
            RequestRecord.features,
            RequestRecord.instruction_hash,
            RequestRecord.embedding,
            RequestRecord.input_embedding,
            RequestRecord.embedder,
            RequestRecord.generation_tokens,
            RequestRecord.censored,
            RequestRecord.max_tokens,
            RequestRecord.quantiles,
            RequestRecord.prediction_source,
            RequestRecord.arrived_at,
            RequestRecord.form,
        )
        # An id has one arrival time, so pairs need not be compared.
        .where(
            RequestRecord.arrived_at == func.any(bindparam("at", type_=ARRAY(TIMESTAMP))),
            RequestRecord.id == func.any(bindparam("ids", type_=ARRAY(Uuid()))),
        )
        .order_by(RequestRecord.arrived_at, RequestRecord.id)
    )
    wanted = {"at": [at for at, _ in keys], "ids": [id_ for _, id_ in keys]}
    return (await session.execute(statement, wanted)).all()


def fault_of(row: Any, embedder: EmbedderModel) -> str | None:
    """What of a row of `_fetch` cannot be: a damaged or foreign row must stop no training."""
    served = row.quantiles
    if row.generation_tokens < 0 or row.max_tokens < 1:
        return "length"
    if not is_finite(row.features, FEATURE_BYTES):
        return "features"
    if len(served) != len(LEVELS) or not all(
        each is not None and isfinite(each) for each in served
    ):
        return "quantiles"
    own = row.input_embedding if row.embedder == embedder.id else None
    if not (_is_vector(row.embedding, TEXT_DIMS) and _is_vector(own, embedder.dims)):
        return "vectors"
    return None


def _is_vector(stored: bytes | None, dims: int) -> bool:
    """Whether these float16 bytes are `dims` finite numbers, or there are none."""
    if stored is None:
        return True
    if len(stored) != dims * np.dtype(np.float16).itemsize:
        return False
    return bool(np.isfinite(np.frombuffer(stored, np.float16)).all())


async def _instructions(
    session: AsyncSession, hashes: Sequence[bytes], embedder: EmbedderModel
) -> dict[bytes, bytes]:
    """Embeddings by hash; one that cannot be is missing."""
    found: dict[bytes, bytes] = {}
    for start in range(0, len(hashes), CHUNK_ROWS):
        wanted = hashes[start : start + CHUNK_ROWS]
        rows = await session.execute(
            select(Instruction.hash, Instruction.embedding).where(
                Instruction.hash.in_(wanted), Instruction.embedder == embedder.id
            )
        )
        found.update(
            (row.hash, row.embedding) for row in rows if _is_vector(row.embedding, embedder.dims)
        )
    return found


class _Columns:
    """Collects rows, oldest first, in compact columns."""

    def __init__(self, embedder: EmbedderModel) -> None:
        self._embedder = embedder
        self._missing = np.full(embedder.dims, np.nan, dtype=np.float16).tobytes()
        self.hashes: dict[bytes, int] = {}
        self._apps: list[UUID] = []
        self._features = bytearray()
        self._texts = bytearray()
        self._sentences = bytearray()
        self._served = array("d")
        self._numbers = array("d")  # instruction, tokens, censored, max_tokens, weight, live
        self._arrived: list[datetime] = []
        self._forms: list[Form] = []

    def add(self, row: Any, weight: float) -> None:
        """Append a row of `_fetch`."""
        self._apps.append(row.app_id)
        self._features += row.features
        self._texts += MISSING_TEXT if row.embedding is None else row.embedding
        own = row.input_embedding if row.embedder == self._embedder.id else None
        self._sentences += self._missing if own is None else own
        self._served.extend(row.quantiles)
        number = self.hashes.setdefault(row.instruction_hash, len(self.hashes))
        self._numbers.extend((number, row.generation_tokens, row.censored, row.max_tokens, weight))
        self._numbers.append(row.prediction_source != IMPORTED)
        self._arrived.append(row.arrived_at)
        self._forms.append(known_form(row.form))

    def samples(self, instructions: dict[bytes, bytes]) -> Samples:
        numbers = np.array(self._numbers).reshape(-1, 6)
        features = np.frombuffer(bytes(self._features), np.float32).reshape(-1, len(NAMES))
        texts = np.frombuffer(bytes(self._texts), np.float16)
        dims = self._embedder.dims
        rows = [unpack_vector(instructions.get(hash_), dims) for hash_ in self.hashes]
        sentences = np.frombuffer(bytes(self._sentences), np.float16)
        return Samples(
            inputs=ModelInputs(
                apps=self._apps,
                features=features,
                instructions=np.array(rows, dtype=np.float32).reshape(-1, dims),
                instruction_of=numbers[:, 0].astype(np.intp),
                text=texts.reshape(-1, TEXT_DIMS).astype(np.float32),
                sentences=sentences.reshape(-1, dims).astype(np.float32),
                forms=form_codes(self._forms),
            ),
            tokens=numbers[:, 1],
            censored=numbers[:, 2].astype(np.bool_),
            max_tokens=numbers[:, 3],
            served=np.array(self._served).reshape(-1, len(LEVELS)),
            arrived=self._arrived,
            weights=numbers[:, 4],
            was_live=numbers[:, 5].astype(np.bool_),
        )
