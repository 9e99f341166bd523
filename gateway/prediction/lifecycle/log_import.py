"""A warm start: one's own logs as rows of history that training reads like served requests.

The rows are marked as imported; drift leaves them out, and so must usage. Features are made as
they would have been had the requests come here in the order of the lines, embeddings by a predictor
process of the import's own, so that no live request waits behind it.
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

from gateway.database.errors import Sessions, transaction
from gateway.errors import Conflict, Unavailable
from gateway.history.audit import note
from gateway.prediction.adaptation.conformal import NO_OFFSETS, calibrated_tokens
from gateway.prediction.features.features import FEATURE_VERSION, features
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome
from gateway.prediction.lifecycle.log_format import BadLine, LogLine, bad_lines_error, read_lines
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.serving.frames import ScoreReply
from gateway.prediction.serving.predictor import MAX_INSTRUCTION_CHARS, head_and_tail
from gateway.prediction.serving.process_client import PredictorClient
from gateway.prediction.serving.warm_start import IMPORTED
from models import App, Instruction, RequestRecord, Tenant
from models.base import new_id

MAX_CONCURRENT: Final = 32  # texts on their way to the encoder
READY_TIMEOUT_S: Final = 120.0
INSTRUCTIONS_TIMEOUT_S: Final = 120.0
RETRY_S: Final = 0.05
LINE_INTERVAL: Final = timedelta(milliseconds=1)
INSERT_ROWS: Final = 500  # rows a statement
NO_API_KEY: Final = UUID(int=0)  # whose key it was


class TokenCounters(Struct, frozen=True):
    """The served model's tokens: of a text, and of a prompt of instruction and user input."""

    text: Callable[[str], int]
    prompt: Callable[[str, str], int]


class ImportedRows(Struct, frozen=True):
    """How many rows were added, by app."""

    rows: int
    apps: dict[str, int]


class _ImportSample(Struct, frozen=True):
    """One line on its way to become a row: its app, and what the predictor would be asked."""

    question: PredictionRequest
    tokens: int
    censored: bool
    at: datetime


class LogImport:
    """Adds logs to the history of the served model; one import at a time in each gateway."""

    def __init__(self, sessions: Sessions, *, model: str, counting: TokenCounters) -> None:
        self._sessions = sessions
        self._model = model
        self._counting = counting
        self._busy = asyncio.Lock()

    async def add(self, body: bytes, *, by: str) -> ImportedRows:
        """Add every line of JSON in the body, or none.

        InvalidRequest names each bad line and its reason; Conflict while another import is at
        work, Unavailable where the encoder does not answer.
        """
        if self._busy.locked():
            raise Conflict("another import is at work; try again when it is done")
        async with self._busy:
            lines, bad = await asyncio.to_thread(read_lines, body)
            known = await self._apps({line.app for line in lines.values()})
            apps, strangers = _apps_of_lines(lines, known)
            if bad or strangers:
                raise bad_lines_error(bad + strangers)
            samples = await asyncio.to_thread(self._samples, list(lines.values()), apps)
            rows, instructions = await _rows(samples, self._model)
            counts = Counter(str(sample.question.app) for sample in samples)
            async with transaction(self._sessions) as session:
                await _insert(session, rows, instructions)
                after = {"rows": len(rows), "apps": dict(counts)}
                note(session, by, "samples.imported", self._model, after=after)
            return ImportedRows(len(rows), dict(counts))

    async def _apps(self, names: set[str]) -> Sequence[tuple[App, bool]]:
        """Apps of these names or ids, and whether their tenants let them be learned from."""
        ids = {UUID(name) for name in names if _is_id(name)}
        statement = (
            select(App, Tenant.learning)
            .join(Tenant, Tenant.id == App.tenant_id)
            .where(App.name.in_(names) | App.id.in_(ids))
        )
        async with transaction(self._sessions) as session:
            return [(app, learning) for app, learning in await session.execute(statement)]

    def _samples(self, lines: Sequence[LogLine], apps: Sequence[App]) -> list[_ImportSample]:
        began = datetime.now(UTC) - len(lines) * LINE_INTERVAL
        samples = []
        for number, (line, app) in enumerate(zip(lines, apps, strict=True)):
            instruction = line.instruction or app.instruction or ""
            question = PredictionRequest(
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
            )
            tokens = line.tokens or self._counting.text(line.output or "")
            tokens = min(max(tokens, 1), line.max_tokens)
            cut_off = line.cut_off or tokens == line.max_tokens
            samples.append(_ImportSample(question, tokens, cut_off, began + number * LINE_INTERVAL))
        return samples


def _apps_of_lines(
    lines: dict[int, LogLine], known: Sequence[tuple[App, bool]]
) -> tuple[list[App], list[BadLine]]:
    """The app of each line, and the lines whose app is not to be learned from."""
    found: dict[str, list[tuple[App, bool]]] = {}
    for app, learning in known:
        for name in {app.name, str(app.id)}:
            found.setdefault(name, []).append((app, learning))
    apps: list[App] = []
    bad: list[BadLine] = []
    for number, line in lines.items():
        name = str(UUID(line.app)) if _is_id(line.app) else line.app
        match found.get(name, []):
            case [(app, True)]:
                apps.append(app)
            case [(_, False)]:
                bad.append(BadLine(number, f"the tenant of app {line.app!r} opted out of learning"))
            case []:
                bad.append(BadLine(number, f"there is no app {line.app!r}"))
            case _:
                bad.append(BadLine(number, f"several apps are named {line.app!r}; give an id"))
    return apps, bad


def _is_id(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True


async def _rows(
    samples: Sequence[_ImportSample], model: str
) -> tuple[list[dict[str, Any]], dict[bytes, bytes]]:
    """The rows of history, and the embeddings of the instructions by their hashes."""
    rows: list[dict[str, Any]] = []
    instructions: dict[bytes, bytes] = {}
    habits = LengthHistory()
    encoder = PredictorClient()
    encoder.start()
    try:
        await _ready(encoder)
        for start in range(0, len(samples), MAX_CONCURRENT):
            asked = []
            for sample in samples[start : start + MAX_CONCURRENT]:
                row = _row(sample, model, habits)
                rows.append(row)
                asked.append((row, _encode(encoder, sample.question, row)))
            for row, question in asked:
                answer = await _answer(question)
                row["embedding"] = answer.text
                if answer.instruction_embedding is not None:
                    instructions[row["instruction_hash"]] = answer.instruction_embedding
        await _embed_instructions(encoder, samples, rows, instructions)
    finally:
        await encoder.close()
    return rows, instructions


async def _embed_instructions(
    encoder: PredictorClient,
    samples: Sequence[_ImportSample],
    rows: Sequence[dict[str, Any]],
    instructions: dict[bytes, bytes],
) -> None:
    """Wait for the instructions' embeddings, made after their first answer: INSTRUCTIONS_TIMEOUT_S at most.

    Training takes an instruction whose embedding is still missing then for an unknown one.
    """
    one_of_each = {
        row["instruction_hash"]: (sample, row) for sample, row in zip(samples, rows, strict=True)
    }
    with suppress(TimeoutError):
        async with asyncio.timeout(INSTRUCTIONS_TIMEOUT_S):
            for digest, (sample, row) in one_of_each.items():
                while digest not in instructions:
                    answer = await _answer(_encode(encoder, sample.question, row))
                    if answer.instruction_embedding is not None:
                        instructions[digest] = answer.instruction_embedding
                    else:
                        await asyncio.sleep(RETRY_S)


async def _answer(question: Future[ScoreReply | None]) -> ScoreReply:
    answer = await question
    if answer is None:
        raise Unavailable("the encoder ended during the import; nothing was imported")
    return answer


async def _ready(encoder: PredictorClient) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await encoder.ready()
    except TimeoutError as error:
        raise Unavailable("the encoder did not start; nothing was imported") from error


def _encode(
    encoder: PredictorClient, question: PredictionRequest, row: dict[str, Any]
) -> Future[ScoreReply | None]:
    return encoder.ask(
        app=question.app,
        instruction_hash=row["instruction_hash"],
        instruction=question.instruction[:MAX_INSTRUCTION_CHARS],
        user_input=head_and_tail(question.user_input),
        features=row["features"],
    )


def _row(sample: _ImportSample, model: str, habits: LengthHistory) -> dict[str, Any]:
    """A row of history without its embedding; the habits learn its length."""
    question, now_s = sample.question, sample.at.timestamp()
    history = habits.history(
        tenant=question.tenant,
        app=question.app,
        end_user=question.end_user,
        max_tokens=question.max_tokens,
        now=now_s,
    )
    vector = features(question, history)
    habits.learn(
        LengthOutcome(
            question.tenant,
            question.app,
            question.end_user,
            sample.tokens,
            sample.censored,
            now_s,
        )
    )
    return {
        "arrived_at": sample.at,
        "id": new_id(),
        "tenant_id": question.tenant,
        "app_id": question.app,
        "api_key_id": NO_API_KEY,
        "end_user": question.end_user,
        "model": model,
        "streamed": False,
        "prompt_tokens": question.prompt_tokens,
        "user_input_tokens": question.user_input_tokens,
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "top_p": question.top_p,
        "quantiles": list(
            calibrated_tokens(history.app.quantiles, NO_OFFSETS, question.max_tokens)
        ),
        "prediction_source": IMPORTED,
        "feature_version": FEATURE_VERSION,
        "features": vector.tobytes(),
        "instruction_hash": hashlib.sha256(question.instruction.encode()).digest(),
        "generation_tokens": sample.tokens,
        "finish_reason": "length" if sample.censored else "stop",
        "censored": sample.censored,
        "policy": IMPORTED,
        "preemptions": 0,
        "response_s": 0.0,
    }


async def _insert(
    session: AsyncSession, rows: Sequence[dict[str, Any]], instructions: dict[bytes, bytes]
) -> None:
    for start in range(0, len(rows), INSERT_ROWS):
        await session.execute(insert(RequestRecord), rows[start : start + INSERT_ROWS])
    if instructions:
        known = [{"hash": key, "embedding": vector} for key, vector in instructions.items()]
        await session.execute(insert(Instruction).on_conflict_do_nothing(), known)
