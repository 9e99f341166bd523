"""Settles ended requests: records them, and feeds their outcomes to learning and metrics."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from gateway.errors import LmaasError, OverLimit, Unavailable
from gateway.generation.dispatch_sources import Predictor
from gateway.generation.holds.holds import Holds
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.pins import PrefixPins
from gateway.generation.queue.position import QueuePositions
from gateway.generation.recording import Origin, record_of
from gateway.generation.request_state import RequestState
from gateway.history.disk.journal import Begun
from gateway.history.record import Record
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.host_lane import HostLane

log = structlog.get_logger()


class RecordStore(Protocol):
    """Stores the records of ended requests, and notes those that start."""

    def note_starts(self, begun: Sequence[Begun]) -> None:
        """Note requests that start: what a killed process was running is recorded later."""

    def record(self, record: Record, released: Callable[[], None]) -> None:
        """Store a record; `released` is called when it survives a killed process."""

    @property
    def full(self) -> bool:
        """Whether there is no room for records of further requests."""


class Learner(Predictor, Protocol):
    """Predicts lengths, and learns from ended requests."""

    @property
    def drift(self) -> DriftMonitor:
        """The quality of the newest predictions."""

    def observe(self, record: Record, opened: OpenPrediction | None = None) -> None:
        """Learn from an ended request; `opened` is its prediction, which may still be revised."""


class Settlement:
    """Settles each request once, when it ends.

    Below `tau_floor`, the least Kendall's tau (rank correlation of predicted medians and lengths),
    the policy stops relying on predictions.
    """

    def __init__(
        self,
        loop: ControlLoop,
        host_lane: HostLane,
        positions: QueuePositions,
        pins: PrefixPins,
        holds: Holds,
        metrics: GatewayMetrics,
        history: RecordStore,
        learner: Learner,
        origin: Origin,
        tau_floor: float,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._host_lane = host_lane
        self._positions = positions
        self._pins = pins
        self._holds = holds
        self._metrics = metrics
        self._history = history
        self._learner = learner
        self._origin = origin
        self._tau_floor = tau_floor
        self._clock = clock

    def started(self, states: Iterable[RequestState]) -> None:
        """Note requests that start, as far as clients wait for them.

        A line of a job runs again if its gateway is killed, and has one record in all attempts.
        """
        try:
            begun = [
                (record_of(state, self._origin, self._loop.policy.name, self._clock()), state)
                for state in states
                if state.lane == "interactive"
            ]
            if begun:
                self._history.note_starts(begun)
        except Exception:  # what cannot be noted must not keep others from starting
            log.exception("starts_not_noted")

    def end(self, state: RequestState, reason: str, error: LmaasError | None = None) -> None:
        """End a request that left queue and engine; its reader sees the end once it is recorded."""
        now_s = self._clock()
        dispatched_s, request = state.dispatched_s, state.queued_request
        if state.on_host:
            self._host_lane.ended(state.id.hex)
            self._loop.due = True  # another may have room now
        started = dispatched_s is not None and not state.queued_again
        if started and request is not None and state.host_reason != "does_not_fit":
            if dispatched_s is not None and state.in_order:
                self._positions.ended(now_s - dispatched_s, len(state.tokens))
            self._loop.ended(request, len(state.tokens), now_s)
        self._pins.ended(state)
        state.end(reason, now_s, error)
        self._metrics.ended(state, self._loop.steps - state.queued_step)
        runs_again = state.lane == "batch" and _runs_again(reason, error)
        self._holds.end(state, counts=not runs_again)
        if runs_again:
            state.release()
            return
        try:
            self._keep(state)
        except Exception:  # a failed record must not end other answers
            log.exception("request_not_recorded", request=str(state.id))
            state.release()
        if self._loop.judgement_due:
            self._judge()

    def _keep(self, state: RequestState) -> None:
        record = record_of(state, self._origin, self._loop.policy.name, self._clock())
        self._history.record(record, state.release)
        self._learner.observe(record, state.opened)

    def _judge(self) -> None:
        """Let the policy rely on predictions only while they rank lengths well enough."""
        trusted = self._learner.drift.trustworthy(self._tau_floor)
        if self._loop.trust(trusted):
            self._metrics.fallback(self._loop.fallback)
            log.warning("predictions_trusted" if trusted else "predictions_distrusted")


def _runs_again(reason: str, error: LmaasError | None) -> bool:
    """Whether a job's line has not ended with this: it runs again, or its job was cancelled.

    History has a line once, under one key in all attempts, so only its last end is recorded.
    """
    withdrawn = reason == "cancelled" and error is None
    return withdrawn or isinstance(error, OverLimit | Unavailable)
