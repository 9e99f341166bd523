"""Which prediction the starts of requests went by, and whether too many went without the model's.

A request is queued by what history says, and ranked again once the model has answered. One that
starts at once goes by history, and nothing is lost: no other waited. One that waited for
`MIN_WAIT_S` could have been ordered by the model: if it was not, that is a fallback.
"""

from collections import deque
from typing import Final, Protocol
from uuid import UUID

import structlog

from gateway.generation.request_state import RequestState
from gateway.prediction.messages import SOURCE_LABELS
from gateway.prediction.serving.open_prediction import OpenPrediction

MIN_WAIT_S: Final = 0.1
WINDOW: Final = 200  # newest starts of requests that waited
MAX_FALLBACK_SHARE: Final = 0.05

log = structlog.get_logger()


class Predictor(Protocol):
    """The length predictor, as starts concern it."""

    @property
    def active(self) -> UUID | None:
        """The version in use; None without one."""

    def started(self, opened: OpenPrediction) -> None:
        """A request waits no more: predictions of those that wait are more urgent."""


class DispatchSources:
    """Counts starts by the source of their prediction; `counts` is kept for metrics."""

    def __init__(self, predictor: Predictor) -> None:
        self.counts = dict.fromkeys(SOURCE_LABELS, 0)
        self._predictor = predictor
        self._fell_back: deque[bool] = deque(maxlen=WINDOW)
        self._falling_back = False

    @property
    def falling_back(self) -> bool:
        """Whether more than `MAX_FALLBACK_SHARE` of the window were fallbacks.

        False while the window is not full, or no version is active.
        """
        return self._falling_back and self._predictor.active is not None

    def dispatched(self, state: RequestState, now_s: float) -> None:
        """A request starts for the first time."""
        prediction = state.prediction
        self.counts[prediction.label] += 1
        if state.opened is not None:
            self._predictor.started(state.opened)
        if state.lane == "batch" or now_s - state.arrived_s < MIN_WAIT_S:
            return
        if self._predictor.active is None:
            self._fell_back.clear()
            self._falling_back = False
            return
        self._fell_back.append(prediction.predictor is None)
        self._judge()

    def _judge(self) -> None:
        fallbacks = sum(self._fell_back)
        full = len(self._fell_back) == WINDOW
        exceeds = full and fallbacks > MAX_FALLBACK_SHARE * WINDOW
        if exceeds != self._falling_back:
            self._falling_back = exceeds
            report = log.warning if exceeds else log.info
            event = "predictions_fell_back" if exceeds else "predictions_recovered"
            report(event, by_history=fallbacks, of=WINDOW)
