"""How long an answer will be: what the rest of the gateway asks before it queues a request."""

import asyncio
import hashlib
import math
import time
from asyncio import Future
from functools import partial
from typing import Final
from uuid import UUID

import numpy as np
import structlog
from msgspec import Struct, field

from gateway.database.errors import Sessions
from gateway.errors import Unavailable
from gateway.history.record import Record
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import NO_OFFSETS, calibrated_tokens
from gateway.prediction.expectation import expected_tokens
from gateway.prediction.features.features import (
    FEATURE_VERSION,
    USER_INPUT_COLUMN,
    Vector,
    features,
    from_bytes,
    raw_quantiles,
    with_raw_quantiles,
)
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome, RequestHistory
from gateway.prediction.messages import SOURCES, Embeddings, Prediction, PredictionRequest
from gateway.prediction.model.artefact import decode
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.frames import ScoreReply
from gateway.prediction.serving.process_client import PredictorClient
from gateway.prediction.serving.warm_start import HistoryRow, ended_at, recent_outcomes

log = structlog.get_logger()

MAX_ADAPTATION_ROWS: Final = 5_000  # rows read when a version comes into use
MAX_INSTRUCTION_CHARS: Final = 1_000  # of an instruction; the encoder reads fewer still
MAX_INPUT_CHARS: Final = 20_000  # of a longer text, half from each end


class PredictorCounts(Struct):
    """Predictions since the start, and how often a version was taken into use.

    `by_source` counts all of them by their source; `timed_out` waited for the version longer than
    the budget, `unavailable` had no process to ask.
    """

    by_source: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    timed_out: int = 0
    unavailable: int = 0
    activations: int = 0


class LengthPredictor:
    """The length predictor of one served model.

    `budget_s` is the longest a request waits for its prediction; then it takes what history tells.
    """

    def __init__(
        self,
        *,
        model: str,
        model_hash: str,
        budget_s: float,
        sessions: Sessions,
    ) -> None:
        self.model = model
        self.model_hash = model_hash
        self.counts = PredictorCounts()
        self.drift = DriftMonitor()
        self._budget_s = budget_s
        self._sessions = sessions
        self._client = PredictorClient()
        self._habits = LengthHistory()
        self._adaptations: dict[UUID, Adaptation] = {}
        self._active: UUID | None = None

    @property
    def active(self) -> UUID | None:
        """The version in use."""
        return self._active

    @property
    def connected(self) -> bool:
        """Whether the process answers."""
        return self._client.connected

    async def start(self) -> None:
        """Learn from recent history and start the predictor process, which is not waited for."""
        finished = await recent_outcomes(self._sessions, self.model)
        for row in finished:
            self._habits.learn(row.outcome)
        self._client.start()
        log.info("habits_loaded", rows=len(finished))

    async def ready(self) -> None:
        """Return once the process answers; `predict` need not wait for it."""
        await self._client.ready()

    async def close(self) -> None:
        """End the predictor process."""
        await self._client.close()

    async def predict(self, question: PredictionRequest) -> Prediction:
        """The length's quantiles within the budget; never raises, whatever is away."""
        history = self._habits.history(
            tenant=question.tenant,
            app=question.app,
            end_user=question.end_user,
            max_tokens=question.max_tokens,
            now=time.time(),
        )
        vector = features(question, history)
        instruction, user_input = _encodable(question.instruction), _encodable(question.user_input)
        digest = hashlib.sha256(instruction.encode()).digest()
        embeddings, answer = Embeddings(), None
        try:
            asked = self._client.ask(
                app=question.app,
                instruction_hash=digest,
                instruction=instruction[:MAX_INSTRUCTION_CHARS],
                user_input=head_and_tail(user_input),
                features=vector.tobytes(),
            )
        except Unavailable:
            self.counts.unavailable += 1
        else:
            asked.add_done_callback(partial(_keep_embeddings, embeddings))
            answer = await self._in_time(asked)
        return self._prediction(question, history, vector, digest, embeddings, answer)

    async def _in_time(self, asked: "Future[ScoreReply | None]") -> ScoreReply | None:
        """The answer within the budget. Without a version it is not worth waiting for."""
        if self._active is None:
            return None
        await asyncio.wait((asked,), timeout=self._budget_s)
        answer = asked.result() if asked.done() else None
        self.counts.timed_out += answer is None
        return answer

    def observe(self, record: Record) -> None:
        """Learn from a finished request: habits, and the version that spoke."""
        if record.model != self.model:
            return
        outcome = LengthOutcome(
            record.tenant_id,
            record.app_id,
            record.end_user,
            record.generation_tokens,
            record.censored,
            ended_at(record.arrived_at, record.response_s),
        )
        self._habits.learn(outcome)
        if record.predictor_id == self._active:
            self.drift.observe(record)
        adaptation = self._adaptations.get(record.predictor_id) if record.predictor_id else None
        if adaptation is not None:
            version = record.feature_version
            _learn_row(
                adaptation, HistoryRow(outcome, record.predictor_id, version, record.features)
            )

    async def activate(self, predictor_id: UUID, artefact: bytes) -> None:
        """Score with another version from now on.

        PredictorRefused leaves the version before in use; Unavailable if the process died over it.
        """
        adaptation = await asyncio.to_thread(_initial_adaptation, artefact, self.model_hash)
        spoken = recent_outcomes(
            self._sessions, self.model, predictor=predictor_id, most=MAX_ADAPTATION_ROWS
        )
        for row in await spoken:
            _learn_row(adaptation, row)
        before = {id_: kept for id_, kept in self._adaptations.items() if id_ == self._active}
        self._adaptations = {**before, predictor_id: adaptation}
        await self._client.load(predictor_id, self.model_hash, artefact)
        self._active = predictor_id
        self.counts.activations += 1
        log.info("predictor_version_activated", predictor=str(predictor_id), model=self.model)

    def _prediction(
        self,
        question: PredictionRequest,
        history: RequestHistory,
        vector: Vector,
        digest: bytes,
        embeddings: Embeddings,
        answer: ScoreReply | None,
    ) -> Prediction:
        if answer is not None and answer.scored is not None:
            source, predictor, scored = "model", answer.scored.predictor, answer.scored.quantiles
            # The version before may answer still while another is being loaded.
            adaptation = self._adaptations.get(predictor) or Adaptation()
            log_uil = float(vector[USER_INPUT_COLUMN])
            levels = adaptation.serve(question.app, log_uil, scored, question.max_tokens)
            mean = answer.scored.mean * math.exp(adaptation.shift(question.app, log_uil, scored))
            vector = with_raw_quantiles(vector, scored)
        else:
            source, predictor = history.source, None
            levels = calibrated_tokens(history.app.quantiles, NO_OFFSETS, question.max_tokens)
            mean = float(expected_tokens(np.array(levels)))
        self.counts.by_source[source] += 1
        q10, q25, q50, q75, q90, q95 = levels
        return Prediction(
            quantiles=(q10, q25, q50, q75, q90, q95),
            mean=min(max(mean, 1.0), float(question.max_tokens)),
            source=source,
            predictor=predictor,
            feature_version=FEATURE_VERSION,
            features=vector.tobytes(),
            instruction_hash=digest,
            embeddings=embeddings,
        )


def _initial_adaptation(artefact: bytes, model_hash: str) -> Adaptation:
    version = decode(artefact, model_hash=model_hash)
    return Adaptation(version.lines, version.scores)


def _learn_row(adaptation: Adaptation, row: HistoryRow) -> None:
    outcome = row.outcome
    if row.feature_version != FEATURE_VERSION or (outcome.censored and not outcome.tokens):
        return
    vector = from_bytes(row.features)
    log_uil, said = float(vector[USER_INPUT_COLUMN]), raw_quantiles(vector)
    adaptation.learn(ScoredOutcome(outcome.app, log_uil, said, outcome.tokens, outcome.censored))


def _keep_embeddings(embeddings: Embeddings, whole: Future[ScoreReply | None]) -> None:
    """Keep what a whole answer brings for the record."""
    answer = whole.result()
    if answer is not None:
        embeddings.instruction = answer.instruction_embedding
        embeddings.user_input = answer.text


def head_and_tail(text: str) -> str:
    """The text, without the middle of a very long one."""
    if len(text) <= MAX_INPUT_CHARS:
        return text
    half = MAX_INPUT_CHARS // 2
    return f"{text[:half]}\n{text[-half:]}"


def _encodable(text: str) -> str:
    """The text without lone surrogates, which JSON may carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
