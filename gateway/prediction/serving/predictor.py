"""The length predictor: lengths from history at once, and from a version once it has scored."""

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct, field

from gateway.database.errors import Sessions
from gateway.errors import PredictorRefused, Unavailable
from gateway.history.late_embeddings import LateEmbeddings
from gateway.history.record import Record
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.features.embedder_model import EmbedderModel
from gateway.prediction.features.features import features
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.model.artefact import decode
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.frames import ScoreReply
from gateway.prediction.serving.learned import (
    Learned,
    calibrate,
    calibrate_history,
    history_of,
    learn_row,
    learn_rows,
    row_of,
)
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.prediction.serving.predictions import (
    as_predicted,
    by_history,
    by_version,
    keep_embeddings,
)
from gateway.prediction.serving.process_client import PredictorClient
from gateway.prediction.serving.request_text import (
    MAX_INSTRUCTION_CHARS,
    encodable,
    head_and_tail,
)
from gateway.prediction.serving.warm_start import recent_outcomes

log = structlog.get_logger()

MAX_ADAPTATION_ROWS: Final = 5_000  # newest rows replayed when a version is activated


class PredictorCounts(Struct):
    """Counts since the start: predictions, and activations of a version.

    `timed_out` counts the predictions that were waited for in vain, `unavailable` those without a
    predictor process. `embeddings` counts the user inputs whose sentence embedding was `computed`,
    or `shed` since too many waited.
    """

    timed_out: int = 0
    unavailable: int = 0
    activations: int = 0
    embeddings: dict[str, int] = field(default_factory=lambda: {"computed": 0, "shed": 0})


class LengthPredictor:
    """The length predictor of one served model.

    Lines of batch jobs are a stratum of their own: they come from one template in great number, so
    what they teach serves them alone, and the drift of versions is judged without them.

    `budget_s` is the longest wait for a score where one is waited for: `predict_by_model`.
    `embedder` makes the sentence embeddings, by default the packaged model. `keep_late` stores
    those that come after the record of their request.
    """

    def __init__(
        self,
        *,
        model: str,
        model_hash: str,
        budget_s: float,
        sessions: Sessions,
        embedder: EmbedderModel | None = None,
        keep_late: Callable[[LateEmbeddings], None] | None = None,
    ) -> None:
        self.model = model
        self.model_hash = model_hash
        self.counts = PredictorCounts()
        self.drift = DriftMonitor()
        self._budget_s = budget_s
        self._sessions = sessions
        self._client = PredictorClient(embedder, self._broken)
        self._keep_late = keep_late
        self._interactive, self._batch = Learned(), Learned()
        self._active: UUID | None = None
        self.unusable: UUID | None = None  # the version that was to be in use and cannot be

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
        """Whether the process is ready and answers."""
        return self._client.connected

    @property
    def restarts(self) -> int:
        """How often the process ended, and was started again."""
        return self._client.restarts

    async def start(self) -> None:
        """Load recent lengths from history and start the predictor process in the background."""
        loaded = 0
        for learned in (self._interactive, self._batch):
            batch = learned is self._batch
            finished = await recent_outcomes(self._sessions, self.model, batch=batch)
            for row in finished:
                learned.history.learn(row.outcome)
                calibrate_history(learned.bands, row)
            loaded += len(finished)
        self._client.start()
        log.info("habits_loaded", rows=loaded)

    async def ready(self) -> None:
        """Return once the process is ready; `predict` works without it."""
        await self._client.ready()

    async def close(self) -> None:
        """End the predictor process."""
        await self._client.close()

    def predict(self, request: PredictionRequest) -> OpenPrediction:
        """What the length history says, at once; the active version's score revises it.

        Never raises and waits for nothing: a process that is late or away costs accuracy alone.
        """
        learned = self._learned_for(request)
        history = history_of(learned, request)
        vector = features(request, history)
        instruction, user_input = encodable(request.instruction), encodable(request.user_input)
        digest = hashlib.sha256(instruction.encode()).digest()
        prediction = by_history(request, learned, history, vector, digest)
        opened = OpenPrediction(request, prediction, vector, history.app.quantiles)
        try:
            opened.score = self._client.request_score(
                app=request.app,
                instruction_hash=digest,
                instruction=instruction[:MAX_INSTRUCTION_CHARS],
                user_input=head_and_tail(user_input),
                features=vector.tobytes(),
                embed=not request.batch,  # training leaves lines of batch jobs out
                form=request.form,
                on_reply=partial(self._replied, opened, learned),
            )
            opened.expect_model(due=self._active is not None)
        except Unavailable:
            self.counts.unavailable += 1
            opened.close()
        return opened

    async def predict_by_model(self, request: PredictionRequest) -> OpenPrediction:
        """As `predict`, once the first score has come or the budget is spent."""
        opened = self.predict(request)
        if self._active is not None:
            await self.await_model(opened)
            self.counts.timed_out += opened.newest.predictor is None
        return opened

    async def await_model(self, opened: OpenPrediction) -> None:
        """Wait for the first score, at most for the budget: a later one is no longer due."""
        await opened.scored(self._budget_s)
        opened.expect_model(due=False)

    def started(self, opened: OpenPrediction) -> None:
        """The request waits no more: those that wait are scored before it."""
        if opened.score is not None:
            self._client.started(opened.score)

    def observe(self, record: Record, opened: OpenPrediction | None = None) -> None:
        """Learn from a finished request: length history, drift, adaptation of its version.

        A forced length teaches nothing.
        `opened` is its prediction, if this gateway made it. The record has the newest prediction
        that came before the end. Where the first score comes later, the version learns from the
        outcome then: otherwise it would learn from long answers alone. The length history is
        calibrated by every outcome that it made a prediction for.
        """
        if record.model != self.model or record.forced:
            return
        learned = self._batch if record.batch else self._interactive
        row = row_of(record)
        learned.history.learn(row.outcome)
        if opened is None:
            calibrate_history(learned.bands, row)
        else:
            opened.records.append(record)
            calibrate(learned.bands, opened.history_source, row.outcome, opened.by_history)
        if record.predictor_id is not None:
            self._teach_version(record)
        elif opened is not None and opened.awaits_score:
            opened.late.append(record)

    def _teach_version(self, record: Record) -> None:
        learned = self._batch if record.batch else self._interactive
        if record.predictor_id == self._active and not record.batch:
            self.drift.observe(record)
        adaptation = learned.adaptations.get(record.predictor_id) if record.predictor_id else None
        if adaptation is not None:
            learn_row(adaptation, row_of(record))

    async def activate(self, predictor_id: UUID, artefact: bytes) -> None:
        """Switch to another version.

        PredictorRefused leaves the previous version in use; Unavailable if the process died.
        """
        try:
            await self._activate(predictor_id, artefact)
        except PredictorRefused:
            self.unusable = predictor_id
            raise
        self.unusable = None

    async def _activate(self, predictor_id: UUID, artefact: bytes) -> None:
        version = await asyncio.to_thread(
            decode, artefact, model_hash=self.model_hash, embedder=self.embedder.id
        )
        for learned in (self._interactive, self._batch):
            adaptation = await asyncio.to_thread(Adaptation, version.lines, version.scores)
            rows = recent_outcomes(
                self._sessions,
                self.model,
                predictor=predictor_id,
                limit=MAX_ADAPTATION_ROWS,
                batch=learned is self._batch,
            )
            await learn_rows(adaptation, await rows)
            before = {key: kept for key, kept in learned.adaptations.items() if key == self._active}
            learned.adaptations = {**before, predictor_id: adaptation}
        await self._client.load(predictor_id, self.model_hash, artefact)
        self._active = predictor_id
        self.counts.activations += 1
        log.info("predictor_version_activated", predictor=str(predictor_id), model=self.model)

    def _broken(self, version: UUID, before: UUID | None) -> None:
        """A version was given up after it had ended the process again and again."""
        self.unusable = version
        if self._active == version:
            self._active = before

    def _learned_for(self, request: PredictionRequest) -> Learned:
        """What to predict from; an app's first lines are predicted from its other requests."""
        if not request.batch or history_of(self._batch, request).source != "app":
            return self._interactive
        return self._batch

    def _replied(self, opened: OpenPrediction, learned: Learned, reply: ScoreReply | None) -> None:
        """Take a reply to a request; None: no other comes."""
        if reply is None:
            self._add_late_embeddings(opened)
        else:
            self._take_up(opened, learned, reply)
        if reply is None or reply.last:
            opened.close()

    def _take_up(self, opened: OpenPrediction, learned: Learned, reply: ScoreReply) -> None:
        """Revise a prediction by its score, if a version made one."""
        keep_embeddings(opened.newest.embeddings, reply, self.embedder.id)
        if reply.last:
            self._add_late_embeddings(opened)
        self.counts.embeddings["computed"] += reply.input_embedding is not None
        self.counts.embeddings["shed"] += reply.shed
        if reply.scored is None:
            return
        if reply.stage == "text":
            opened.first = opened.first or reply.scored
        elif adaptation := learned.adaptations.get(reply.scored.predictor):
            adaptation.two_stages = True
        opened.revise(by_version(opened, learned, reply.scored, reply.stage))
        late, opened.late = opened.late, []
        for record in late:
            self._teach_version(as_predicted(record, opened.newest))

    def _add_late_embeddings(self, opened: OpenPrediction) -> None:
        """Store what the records of ended answers lack: no other reply comes."""
        found = opened.newest.embeddings
        if self._keep_late is None or found.embedder is None:
            return
        for record in opened.records:
            late = LateEmbeddings(
                arrived_at=record.arrived_at,
                id=record.id,
                embedder=found.embedder,
                text=None if record.embedding else found.text,
                instruction=None if record.instruction_embedding else found.instruction,
                user_input=None if record.input_embedding else found.user_input,
            )
            if late.text or late.instruction or late.user_input:
                self._keep_late(late)
