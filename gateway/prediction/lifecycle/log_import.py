"""Imports an operator's logs as rows of history that training reads like served requests.

The rows are marked as imported; drift and usage exclude them. Features are computed as if the
requests had arrived in the order of the lines, vectors by a separate predictor process, so that
live requests do not wait behind the import.
"""

import asyncio
import hashlib
from asyncio import Future
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.errors import Conflict, Unavailable, shortened
from gateway.history.audit import note
from gateway.history.insertion import insert_rows
from gateway.prediction.adaptation.conformal import NO_OFFSETS, calibrated_tokens
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.features.features import FEATURE_VERSION, features
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome
from gateway.prediction.lifecycle.log_format import BadLine, LogLine, bad_lines_error, read_lines
from gateway.prediction.messages import IMPORTED, PredictionRequest
from gateway.prediction.serving.frames import ScoreReply
from gateway.prediction.serving.process_client import PredictorClient
from gateway.prediction.serving.request_text import MAX_INSTRUCTION_CHARS, head_and_tail
from models import App, Instruction, Tenant
from models.base import new_id

MAX_CONCURRENT: Final = 32  # requests in flight to the encoder
READY_TIMEOUT_S: Final = 120.0
REPLY_TIMEOUT_S: Final = 60.0  # the encoder itself drops a request after 10 s
INSTRUCTIONS_TIMEOUT_S: Final = 120.0
RETRY_S: Final = 0.05
LINE_INTERVAL: Final = timedelta(milliseconds=1)
INSERT_ROWS: Final = 64  # per statement, some milliseconds of the event loop
NO_API_KEY: Final = UUID(int=0)  # imported rows have no API key


class TokenCounters(Struct, frozen=True):
    """Token counters of the served model: for a text, and for a prompt with its instruction."""

    text: Callable[[str], int]
    prompt: Callable[[str, str], int]


class ImportedRows(Struct, frozen=True):
    """The number of rows added, in total and per app."""

    rows: int
    apps: dict[str, int]


class _ImportSample(Struct, frozen=True):
    """A line of the log as a prediction request, with its outcome."""

    request: PredictionRequest
    tokens: int
    censored: bool
    at: datetime


class LogImport:
    """Adds logs to the history of the served model; one import at a time per gateway."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        model: str,
        counting: TokenCounters,
        embedder: EmbedderModel | None = None,
    ) -> None:
        self._sessions = sessions
        self._embedder = embedder or packaged_embedder()
        self._model = model
        self._counting = counting
        self._busy = asyncio.Lock()

    async def add(self, body: bytes, *, by: str) -> ImportedRows:
        """Import all lines of the body, or none.

        InvalidRequest lists bad lines with reasons; Conflict while another import runs; Unavailable
        if the encoder does not answer.
        """
        if self._busy.locked():
            raise Conflict("another import is running; try again when it has finished")
        async with self._busy:
            lines, bad = await asyncio.to_thread(read_lines, body)
            known = await self._apps({line.app for line in lines.values()})
            apps, unknown_apps = _apps_of_lines(lines, known)
            if bad or unknown_apps:
                raise bad_lines_error(bad + unknown_apps)
            samples = await asyncio.to_thread(self._samples, list(lines.values()), apps)
            rows, instructions = await _rows(samples, self._model, self._embedder)
            counts = Counter(str(sample.request.app) for sample in samples)
            async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
                await _insert(session, rows, instructions, self._embedder.id)
                after = {"rows": len(rows), "apps": dict(counts)}
                note(session, by, "samples.imported", self._model, after=after)
            return ImportedRows(len(rows), dict(counts))

    async def _apps(self, names: set[str]) -> Sequence[tuple[App, bool]]:
        """Apps with these names or ids, and whether their tenant permits learning."""
        ids = {UUID(name) for name in names if _is_id(name)}
        statement = (
            select(App, Tenant.learning)
            .join(Tenant, Tenant.id == App.tenant_id)
            .where(
                App.name.in_(names) | App.id.in_(ids),
                App.deleted_at.is_(None),
                Tenant.deleted_at.is_(None),
            )
        )
        async with transaction(self._sessions) as session:
            return [(app, learning) for app, learning in await session.execute(statement)]

    def _samples(self, lines: Sequence[LogLine], apps: Sequence[App]) -> list[_ImportSample]:
        first_at = datetime.now(UTC) - len(lines) * LINE_INTERVAL
        samples = []
        for number, (line, app) in enumerate(zip(lines, apps, strict=True)):
            instruction = line.instruction or app.instruction or ""
            request = PredictionRequest(
                tenant=app.tenant_id,
                app=app.id,
                end_user=line.user,
                instruction=instruction,
                user_input=line.input,
                user_input_tokens=self._counting.text(line.input),
                prompt_tokens=self._counting.prompt(instruction, line.input),
                max_tokens=line.max_tokens,
                temperature=line.temperature,
                top_p=line.top_p,
                form=line.form,
            )
            tokens = line.tokens or self._counting.text(line.output or "")
            tokens = min(max(tokens, 1), line.max_tokens)
            cut_off = line.cut_off or tokens == line.max_tokens
            samples.append(
                _ImportSample(request, tokens, cut_off, first_at + number * LINE_INTERVAL)
            )
        return samples


def _apps_of_lines(
    lines: dict[int, LogLine], known: Sequence[tuple[App, bool]]
) -> tuple[list[App], list[BadLine]]:
    """The app of each line, and the lines whose app is unknown, ambiguous or opted out."""
    found: dict[str, list[tuple[App, bool]]] = {}
    for app, learning in known:
        for name in {app.name, str(app.id)}:
            found.setdefault(name, []).append((app, learning))
    apps: list[App] = []
    bad: list[BadLine] = []
    for number, line in lines.items():
        name = str(UUID(line.app)) if _is_id(line.app) else line.app
        shown = shortened(line.app)
        match found.get(name, []):
            case [(app, True)]:
                apps.append(app)
            case [(_, False)]:
                bad.append(BadLine(number, f"the tenant of app {shown!r} opted out of learning"))
            case []:
                bad.append(BadLine(number, f"there is no app {shown!r}"))
            case _:
                bad.append(BadLine(number, f"several apps are named {shown!r}; give an id"))
    return apps, bad


def _is_id(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True


async def _rows(
    samples: Sequence[_ImportSample], model: str, embedder: EmbedderModel
) -> tuple[list[dict[str, Any]], dict[bytes, bytes]]:
    """The rows of history, and the embeddings of instructions by hash."""
    lengths = LengthHistory()
    rows = [_row(sample, model, lengths) for sample in samples]
    encoder = PredictorClient(embedder)
    encoder.start()
    try:
        await _ready(encoder)
        instructions = await _embed_instructions(encoder, samples, rows)
        for start in range(0, len(samples), MAX_CONCURRENT):
            part = slice(start, start + MAX_CONCURRENT)
            pending = [
                (row, _encode(encoder, sample.request, row))
                for sample, row in zip(samples[part], rows[part], strict=True)
            ]
            for row, future in pending:
                reply = await _reply(future)
                row["embedding"] = reply.text
                row["input_embedding"] = reply.input_embedding
                row["embedder"] = embedder.id
    finally:
        await encoder.close()
    return rows, instructions


async def _embed_instructions(
    encoder: PredictorClient,
    samples: Sequence[_ImportSample],
    rows: Sequence[dict[str, Any]],
) -> dict[bytes, bytes]:
    """The embeddings of the instructions; waits for them up to INSTRUCTIONS_TIMEOUT_S.

    They are computed after a first reply. Training treats a missing one as unknown: all are if the
    texts are shed, since there is no model or it could not be loaded.
    """
    instructions: dict[bytes, bytes] = {}
    one_of_each = {
        row["instruction_hash"]: (sample, row) for sample, row in zip(samples, rows, strict=True)
    }
    with suppress(TimeoutError):
        async with asyncio.timeout(INSTRUCTIONS_TIMEOUT_S):
            for digest, (sample, row) in one_of_each.items():
                while digest not in instructions:
                    reply = await _reply(_encode(encoder, sample.request, row))
                    if reply.instruction_embedding is not None:
                        instructions[digest] = reply.instruction_embedding
                    elif reply.shed:
                        return instructions
                    else:
                        await asyncio.sleep(RETRY_S)
    return instructions


async def _reply(future: Future[ScoreReply | None]) -> ScoreReply:
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            reply = await future
    except TimeoutError as error:
        raise Unavailable("the encoder does not answer; nothing was imported") from error
    if reply is None:
        raise Unavailable("the encoder ended during the import; nothing was imported")
    return reply


async def _ready(encoder: PredictorClient) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await encoder.ready()
    except TimeoutError as error:
        raise Unavailable("the encoder did not start; nothing was imported") from error


def _encode(
    encoder: PredictorClient, request: PredictionRequest, row: dict[str, Any]
) -> Future[ScoreReply | None]:
    """The newest reply when no other comes; None without any."""
    newest: list[ScoreReply] = []
    answer: Future[ScoreReply | None] = asyncio.get_running_loop().create_future()

    def keep(reply: ScoreReply | None) -> None:
        newest.extend([reply] if reply is not None else [])
        if (reply is None or reply.last) and not answer.done():
            answer.set_result(newest[-1] if newest else None)

    encoder.request_score(
        app=request.app,
        instruction_hash=row["instruction_hash"],
        instruction=request.instruction[:MAX_INSTRUCTION_CHARS],
        user_input=head_and_tail(request.user_input),
        features=row["features"],
        form=request.form,
        on_reply=keep,
    )
    return answer


def _row(sample: _ImportSample, model: str, lengths: LengthHistory) -> dict[str, Any]:
    """A row of history without its text vector; updates the length history."""
    request, now_s = sample.request, sample.at.timestamp()
    history = lengths.history(
        tenant=request.tenant,
        app=request.app,
        end_user=request.end_user,
        max_tokens=request.max_tokens,
        now=now_s,
        form=request.form,
    )
    vector = features(request, history)
    lengths.learn(
        LengthOutcome(
            request.tenant,
            request.app,
            request.end_user,
            sample.tokens,
            sample.censored,
            now_s,
            request.form,
        )
    )
    return {
        "arrived_at": sample.at,
        "id": new_id(),
        "tenant_id": request.tenant,
        "app_id": request.app,
        "api_key_id": NO_API_KEY,
        "end_user": request.end_user,
        "model": model,
        "streamed": False,
        "prompt_tokens": request.prompt_tokens,
        "user_input_tokens": request.user_input_tokens,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "quantiles": list(calibrated_tokens(history.app.quantiles, NO_OFFSETS, request.max_tokens)),
        "prediction_source": IMPORTED,
        "feature_version": FEATURE_VERSION,
        "features": vector.tobytes(),
        "instruction_hash": hashlib.sha256(request.instruction.encode()).digest(),
        "generation_tokens": sample.tokens,
        "finish_reason": "length" if sample.censored else "stop",
        "censored": sample.censored,
        "form": request.form,
        "policy": IMPORTED,
        "preemptions": 0,
        "response_s": 0.0,
        "hard": False,
    }


async def _insert(
    session: AsyncSession,
    rows: Sequence[dict[str, Any]],
    instructions: dict[bytes, bytes],
    embedder: str,
) -> None:
    for start in range(0, len(rows), INSERT_ROWS):
        await insert_rows(session, rows[start : start + INSERT_ROWS])
    if instructions:
        known = [
            {"hash": key, "embedder": embedder, "embedding": vector}
            for key, vector in instructions.items()
        ]
        await session.execute(insert(Instruction).on_conflict_do_nothing(), known)
