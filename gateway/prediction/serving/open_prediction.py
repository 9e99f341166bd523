"""A request's prediction from its arrival on: from history at once, from a version once scored."""

import asyncio
from collections.abc import Callable

from gateway.history.record import Record
from gateway.prediction.features.features import Vector
from gateway.prediction.messages import Prediction, PredictionRequest
from gateway.prediction.serving.frames import VersionScore
from gateway.prediction.serving.process_client import FirstReply

Follower = Callable[[Prediction], None]


class OpenPrediction:
    """The newest prediction of a request; each score that comes revises it.

    `by_history` are the ln quantiles of the length history, before calibration, from its
    `history_source`; `vector` the features. `late` are outcomes that came before the first score:
    they teach the version then. `first` is what the version predicted before it had read
    embeddings. `records` are those of its answers that have ended. While it `awaits_model`, the
    newest prediction is history's and that of the active version is due.
    """

    def __init__(
        self,
        request: PredictionRequest,
        prediction: Prediction,
        vector: Vector,
        by_history: tuple[float, ...],
    ) -> None:
        self.request = request
        self.newest = prediction
        self.history_source = prediction.source
        self.vector = vector
        self.by_history = by_history
        self.score: FirstReply | None = None
        self.late: list[Record] = []
        self.records: list[Record] = []
        self.first: VersionScore | None = None
        self._follower: Follower | None = None
        self._closed = False
        self._model_due = False

    @property
    def awaits_score(self) -> bool:
        """Whether the first score is still to come; it may fail to."""
        return self.score is not None and not self.score.done()

    @property
    def awaits_model(self) -> bool:
        """Whether the active version's first prediction is due; false once it is late."""
        return self._model_due and self.awaits_score

    def expect_model(self, *, due: bool) -> None:
        """Set whether the active version's first prediction is due, as `awaits_model` says."""
        self._model_due = due

    def follow(self, follower: Follower) -> None:
        """Call `follower` with each prediction that replaces the newest. One alone follows."""
        if not self._closed:
            self._follower = follower

    def close(self) -> None:
        """No other prediction comes; lets go of the follower, which refers to this in turn."""
        self._closed = True
        self._follower = None

    def revise(self, prediction: Prediction) -> None:
        """Replace the newest prediction."""
        self.newest = prediction
        if self._follower is not None:
            self._follower(prediction)

    async def scored(self, within_s: float) -> Prediction:
        """The newest prediction once the first score has come, or after this time without."""
        if self.score is not None:
            await asyncio.wait((self.score,), timeout=within_s)
        return self.newest
