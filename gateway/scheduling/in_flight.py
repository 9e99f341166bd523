"""Dispatched batches until their last request ends."""

from typing import NamedTuple

from msgspec import Struct

from gateway.scheduling.dispatch import Dispatch


class BatchOutcome(NamedTuple):
    """What a policy learns of a batch: size, longest prompt, longest generation, seconds."""

    size: int
    prompt_tokens: int
    generation_tokens: int
    serving_s: float


class _Progress(Struct):
    size: int
    left: int
    began_s: float
    prompt_tokens: int
    generation_tokens: int = 0


class BatchesInFlight:
    """How long each batch took that ran undisturbed."""

    def __init__(self) -> None:
        self._of: dict[str, _Progress] = {}

    def begin(self, dispatch: Dispatch, now_s: float) -> None:
        """A batch was handed to the engine."""
        size = len(dispatch.requests)
        longest = max(request.prompt_tokens for request in dispatch.requests)
        progress = _Progress(size, size, now_s, longest)
        for request in dispatch.requests:
            self._of[request.id] = progress

    def settle(self, request_id: str, tokens: int, now_s: float) -> BatchOutcome | None:
        """A request ended; the outcome of its batch where it was the last and any generated."""
        batch = self._of.pop(request_id, None)
        if batch is None:
            return None
        batch.left -= 1
        batch.generation_tokens = max(batch.generation_tokens, tokens)
        if batch.left or not batch.generation_tokens:
            return None
        return BatchOutcome(
            batch.size, batch.prompt_tokens, batch.generation_tokens, now_s - batch.began_s
        )

    def forget(self, request_id: str) -> None:
        """A request waits again: its batch was disturbed, and nothing is learned of it."""
        self._of.pop(request_id)

    def clear(self) -> None:
        """Forget all: what now comes in between is no batch's doing."""
        self._of.clear()
