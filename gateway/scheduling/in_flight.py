"""Measures the serving time of batches: from dispatch until the last request ends."""

from typing import NamedTuple

from msgspec import Struct

from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest


class BatchOutcome(NamedTuple):
    """An outcome that a policy learns from: size, longest prompt, longest generation, seconds."""

    size: int
    prompt_tokens: int
    generation_tokens: int
    serving_s: float


class _Progress(Struct):
    size: int
    unfinished: int
    began_s: float
    prompt_tokens: int
    generation_tokens: int = 0


class BatchesInFlight:
    """The batches that run, by the ids of their requests."""

    def __init__(self) -> None:
        self._batch_of: dict[str, _Progress] = {}

    def begin(self, dispatch: Dispatch, now_s: float) -> None:
        """A batch was sent to the engine."""
        size = len(dispatch.requests)
        longest = max(request.prompt_tokens + request.generated for request in dispatch.requests)
        progress = _Progress(size, size, now_s, longest)
        for request in dispatch.requests:
            self._batch_of[request.id] = progress

    def settle(self, request: QueuedRequest, tokens: int, now_s: float) -> BatchOutcome | None:
        """A request ended; its batch's outcome if it was the last and any token was generated."""
        batch = self._batch_of.pop(request.id, None)
        if batch is None:
            return None
        batch.unfinished -= 1
        batch.generation_tokens = max(batch.generation_tokens, tokens - request.generated)
        if batch.unfinished or not batch.generation_tokens:
            return None
        return BatchOutcome(
            batch.size, batch.prompt_tokens, batch.generation_tokens, now_s - batch.began_s
        )

    def forget(self, request_id: str) -> None:
        """A request is queued again: its batch was interrupted and yields no outcome."""
        self._batch_of.pop(request_id, None)

    def clear(self) -> None:
        """Drop batches in flight: an outage would distort their serving times."""
        self._batch_of.clear()
