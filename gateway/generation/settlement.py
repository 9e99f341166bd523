"""What follows from the end of a request: its record, and what is learned and counted."""

from collections.abc import Callable
from typing import Protocol

import structlog

from gateway.errors import LmaasError
from gateway.generation.metrics import Metrics
from gateway.generation.queue_position import QueuePositions
from gateway.generation.recording import Origin, record_of
from gateway.generation.request_state import RequestState
from gateway.history.record import Record
from gateway.prediction.serving.drift import DriftMonitor
from gateway.scheduling.control_loop import ControlLoop

log = structlog.get_logger()


class History(Protocol):
    """Keeps the records of ended requests."""

    def record(self, record: Record) -> None:
        """Keep a record; returns when it would survive a killed process."""


class Learner(Protocol):
    """Learns from outcomes."""

    @property
    def drift(self) -> DriftMonitor:
        """How good the newest predictions were."""

    def observe(self, record: Record) -> None:
        """Learn from an ended request."""


class Settlement:
    """Settles each request once, when it ends. `tau_floor`: below it predictions are distrusted."""

    def __init__(
        self,
        loop: ControlLoop,
        positions: QueuePositions,
        metrics: Metrics,
        history: History,
        learner: Learner,
        origin: Origin,
        tau_floor: float,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._positions = positions
        self._metrics = metrics
        self._history = history
        self._learner = learner
        self._origin = origin
        self._tau_floor = tau_floor
        self._clock = clock

    def end(self, live: RequestState, reason: str, error: LmaasError | None = None) -> None:
        """End a request that neither waits nor runs any more, before its reader gets to run."""
        now_s = self._clock()
        if live.dispatched_s is not None and live.request is not None:
            self._positions.ended(now_s - live.dispatched_s, len(live.tokens))
            self._loop.ended(live.request, len(live.tokens), now_s)
        live.end(reason, now_s, error)
        self._metrics.ended(live)
        try:
            self._keep(live)
        except Exception:  # one record that cannot be made must not end all other answers
            log.exception("request_not_recorded", request=str(live.id))
        if self._loop.judgement_due:
            self._judge()

    def _keep(self, live: RequestState) -> None:
        record = record_of(live, self._origin, self._loop.policy.name, self._clock())
        self._history.record(record)
        self._learner.observe(record)

    def _judge(self) -> None:
        """Let the policy rely on predictions only while their order holds."""
        trusted = self._learner.drift.trustworthy(self._tau_floor)
        if self._loop.trust(trusted):
            self._metrics.fallback(self._loop.fallback)
            log.warning("predictions_trusted" if trusted else "predictions_distrusted")
