"""The length predictor that the gateway queries before it queues a request."""

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
from gateway.prediction.adaptation.source_bands import SourceBands
from gateway.prediction.expectation import expected_tokens, limited_mean
from gateway.prediction.features.embedder_model import EmbedderModel
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

MAX_ADAPTATION_ROWS: Final = 5_000  # newest rows replayed when a version is activated
MAX_INSTRUCTION_CHARS: Final = 1_000  # the encoder reads fewer
MAX_INPUT_CHARS: Final = 20_000  # of a longer text, half from each end


class PredictorCounts(Struct):
    """Counts since the start: predictions, and activations of a version.

    `by_source` counts all predictions by source; `timed_out` those whose score exceeded the budget,
    `unavailable` those without a predictor process. `embeddings` counts the user inputs whose
    sentence embedding was `computed`, or `shed` since too many waited.
    """

    by_source: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    timed_out: int = 0
    unavailable: int = 0
    activations: int = 0
    embeddings: dict[str, int] = field(default_factory=lambda: {"computed": 0, "shed": 0})


class _Learned(Struct):
    """What outcomes taught: lengths, and corrections of predictions from them and of versions."""

    history: LengthHistory = field(default_factory=LengthHistory)
    bands: SourceBands = field(default_factory=SourceBands)
    adaptations: dict[UUID, Adaptation] = field(default_factory=dict)


class LengthPredictor:
    """The length predictor of one served model.

    Lines of batch jobs are a stratum of their own: they come from one template in great number, so
    what they teach serves them alone, and the drift of versions is judged without them.

    `budget_s` is the maximum wait for a score; after it the length history gives the prediction.
    `embedder` makes the sentence embeddings, by default the packaged model.
    """

    def __init__(
        self,
        *,
        model: str,
        model_hash: str,
        budget_s: float,
        sessions: Sessions,
        embedder: EmbedderModel | None = None,
    ) -> None:
        self.model = model
        self.model_hash = model_hash
        self.counts = PredictorCounts()
        self.drift = DriftMonitor()
        self._budget_s = budget_s
        self._sessions = sessions
        self._client = PredictorClient(embedder)
        self._interactive, self._batch = _Learned(), _Learned()
        self._active: UUID | None = None

    @property
    def active(self) -> UUID | None:
        """The version in use; None without one."""
        return self._active

    @property
    def embedder(self) -> EmbedderModel:
        """The model that makes the sentence embeddings."""
        return self._client.embedder

    @property
    def connected(self) -> bool:
        """Whether the process is ready."""
        return self._client.connected

    async def start(self) -> None:
        """Load recent lengths from history and start the predictor process in the background."""
        loaded = 0
        for learned in (self._interactive, self._batch):
            batch = learned is self._batch
            finished = await recent_outcomes(self._sessions, self.model, batch=batch)
            for row in finished:
                learned.history.learn(row.outcome)
                _calibrate_history(learned.bands, row)
            loaded += len(finished)
        self._client.start()
        log.info("habits_loaded", rows=loaded)

    async def ready(self) -> None:
        """Return once the process is ready; `predict` works without it."""
        await self._client.ready()

    async def close(self) -> None:
        """End the predictor process."""
        await self._client.close()

    async def predict(self, request: PredictionRequest) -> Prediction:
        """Predict within the budget. Never raises: without a score, from the length history."""
        learned = self._batch if request.batch else self._interactive
        history = _history_of(learned, request)
        if request.batch and history.source != "app":  # the app's first lines
            learned = self._interactive
            history = _history_of(learned, request)
        vector = features(request, history)
        instruction, user_input = _encodable(request.instruction), _encodable(request.user_input)
        digest = hashlib.sha256(instruction.encode()).digest()
        embeddings, score_reply = Embeddings(embedder=self.embedder.id), None
        try:
            reply = self._client.request_score(
                app=request.app,
                instruction_hash=digest,
                instruction=instruction[:MAX_INSTRUCTION_CHARS],
                user_input=head_and_tail(user_input),
                features=vector.tobytes(),
                on_reply=partial(self._keep_embeddings, embeddings),
            )
        except Unavailable:
            self.counts.unavailable += 1
        else:
            score_reply = await self._within_budget(reply)
        return self._prediction(request, learned, history, vector, digest, embeddings, score_reply)

    async def _within_budget(self, reply: "Future[ScoreReply | None]") -> ScoreReply | None:
        """The reply, if it arrives within the budget; None at once if no version is active."""
        if self._active is None:
            return None
        await asyncio.wait((reply,), timeout=self._budget_s)
        score_reply = reply.result() if reply.done() else None
        self.counts.timed_out += score_reply is None
        return score_reply

    def _keep_embeddings(self, embeddings: Embeddings, reply: ScoreReply | None) -> None:
        """Store the vectors of a reply for the record."""
        if reply is None:
            return
        embeddings.text = reply.text
        embeddings.instruction = reply.instruction_embedding
        embeddings.user_input = reply.input_embedding
        self.counts.embeddings["computed"] += reply.stage == "embeddings"
        self.counts.embeddings["shed"] += reply.shed

    def observe(self, record: Record) -> None:
        """Learn from a finished request: length history, drift, adaptation of its version."""
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
        learned = self._batch if record.batch else self._interactive
        learned.history.learn(outcome)
        if record.predictor_id == self._active and not record.batch:
            self.drift.observe(record)
        row = HistoryRow(
            outcome,
            record.predictor_id,
            record.feature_version,
            record.features,
            record.prediction_source,
        )
        _calibrate_history(learned.bands, row)
        adaptation = learned.adaptations.get(record.predictor_id) if record.predictor_id else None
        if adaptation is not None:
            _learn_row(adaptation, row)

    async def activate(self, predictor_id: UUID, artefact: bytes) -> None:
        """Switch to another version.

        PredictorRefused leaves the previous version in use; Unavailable if the process died.
        """
        for learned in (self._interactive, self._batch):
            adaptation = await asyncio.to_thread(
                _initial_adaptation, artefact, self.model_hash, self.embedder.id
            )
            rows = recent_outcomes(
                self._sessions,
                self.model,
                predictor=predictor_id,
                limit=MAX_ADAPTATION_ROWS,
                batch=learned is self._batch,
            )
            for row in await rows:
                _learn_row(adaptation, row)
            before = {key: kept for key, kept in learned.adaptations.items() if key == self._active}
            learned.adaptations = {**before, predictor_id: adaptation}
        await self._client.load(predictor_id, self.model_hash, artefact)
        self._active = predictor_id
        self.counts.activations += 1
        log.info("predictor_version_activated", predictor=str(predictor_id), model=self.model)

    def _prediction(
        self,
        request: PredictionRequest,
        learned: _Learned,
        history: RequestHistory,
        vector: Vector,
        digest: bytes,
        embeddings: Embeddings,
        score_reply: ScoreReply | None,
    ) -> Prediction:
        if score_reply is not None and score_reply.scored is not None:
            source, predictor, scored = (
                "model",
                score_reply.scored.predictor,
                score_reply.scored.quantiles,
            )
            # While a version is being loaded, the previous one still answers.
            adaptation = learned.adaptations.get(predictor) or Adaptation()
            log_uil = float(vector[USER_INPUT_COLUMN])
            levels = adaptation.serve(request.app, log_uil, scored, request.max_tokens)
            natural = [math.exp(log) for log in adaptation.corrected(request.app, log_uil, scored)]
            shift = adaptation.shift(request.app, log_uil, scored)
            mean = limited_mean(
                score_reply.scored.mean * math.exp(shift), natural, request.max_tokens
            )
            vector = with_raw_quantiles(vector, scored)
        else:
            source, predictor = history.source, None
            levels = learned.bands.serve(
                source, request.app, history.app.quantiles, request.max_tokens
            )
            vector = with_raw_quantiles(vector, history.app.quantiles)
            mean = float(expected_tokens(np.array(levels)))
        self.counts.by_source[source] += 1
        q10, q25, q50, q75, q90, q95 = levels
        return Prediction(
            quantiles=(q10, q25, q50, q75, q90, q95),
            mean=min(max(mean, 1.0), float(request.max_tokens)),
            source=source,
            predictor=predictor,
            feature_version=FEATURE_VERSION,
            features=vector.tobytes(),
            instruction_hash=digest,
            embeddings=embeddings,
            stage=score_reply.stage if score_reply is not None and predictor else None,
        )


def _history_of(learned: _Learned, request: PredictionRequest) -> RequestHistory:
    return learned.history.history(
        tenant=request.tenant,
        app=request.app,
        end_user=request.end_user,
        max_tokens=request.max_tokens,
        now=time.time(),
    )


def _initial_adaptation(artefact: bytes, model_hash: str, embedder: str) -> Adaptation:
    version = decode(artefact, model_hash=model_hash, embedder=embedder)
    return Adaptation(version.lines, version.scores)


def _calibrate_history(bands: SourceBands, row: HistoryRow) -> None:
    """Learn from an outcome that the length history predicted; others have no such quantiles."""
    if row.predictor is not None or not _usable(row):
        return
    _, *upper = raw_quantiles(from_bytes(row.features))
    if any(upper):  # 0 in rows of earlier releases and of imported logs
        outcome = row.outcome
        bands.learn(row.source, outcome.app, upper, outcome.tokens, censored=outcome.censored)


def _usable(row: HistoryRow) -> bool:
    """Whether the row has features of this version and was not cut off before its first token."""
    cut_off_at_once = row.outcome.censored and not row.outcome.tokens
    known = row.feature_version == FEATURE_VERSION and bool(row.features)
    return known and not cut_off_at_once


def _learn_row(adaptation: Adaptation, row: HistoryRow) -> None:
    outcome = row.outcome
    if not _usable(row):
        return
    vector = from_bytes(row.features)
    log_uil, raw = float(vector[USER_INPUT_COLUMN]), raw_quantiles(vector)
    adaptation.learn(ScoredOutcome(outcome.app, log_uil, raw, outcome.tokens, outcome.censored))


def head_and_tail(text: str) -> str:
    """The text; of a very long one, the first and last MAX_INPUT_CHARS / 2."""
    if len(text) <= MAX_INPUT_CHARS:
        return text
    half = MAX_INPUT_CHARS // 2
    return f"{text[:half]}\n{text[-half:]}"


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which JSON may carry and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
