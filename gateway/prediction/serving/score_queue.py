"""The order in which the predictor process scores requests."""

from collections.abc import Iterable
from typing import Final

from gateway.prediction.serving.frames import RequestDropped, RequestsStarted, ScoreRequest

MAX_BATCH_REQUESTS: Final = 32  # per micro-batch


class ScoreQueue:
    """Requests to score: first those that wait in the gateway's queue, then those that started.

    Only what waits can still be ranked by its score. Each kind is scored oldest first, and dropped
    once its deadline has passed, so that the queue is bounded by what arrives in that time.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, ScoreRequest] = {}
        self._started: dict[int, ScoreRequest] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._started)

    def add(self, messages: Iterable[ScoreRequest | RequestsStarted]) -> None:
        """Take what has arrived; a request that is not queued is ignored when it starts."""
        for message in messages:
            if isinstance(message, ScoreRequest):
                self._waiting[message.number] = message
                continue
            for number in message.numbers:
                request = self._waiting.pop(number, None)
                if request is not None:
                    self._started[number] = request

    def next_batch(self, now_s: float) -> tuple[list[ScoreRequest], list[RequestDropped]]:
        """Take the next `MAX_BATCH_REQUESTS`, and drop those past their deadline."""
        dropped: list[RequestDropped] = []
        batch: list[ScoreRequest] = []
        for requests in (self._waiting, self._started):
            while requests:
                number, request = next(iter(requests.items()))
                if request.deadline_s <= now_s:
                    dropped.append(RequestDropped(number))
                elif len(batch) < MAX_BATCH_REQUESTS:
                    batch.append(request)
                else:
                    break
                del requests[number]
        return batch, dropped
