"""Batches between their dispatch and the end of their last request."""

from msgspec import Struct

from gateway.generation.live import LiveRequest
from gateway.scheduling.policies import Dispatch, Policy


class _Progress(Struct):
    """A dispatched batch until its last request ends."""

    size: int
    left: int
    began_s: float
    prompt_tokens: int
    generation_tokens: int = 0


class BatchesInFlight:
    """Tells the policy how long each batch took that ran undisturbed."""

    def __init__(self) -> None:
        self._batches: dict[str, _Progress] = {}

    def begin(self, dispatch: Dispatch, now_s: float) -> None:
        """A batch was handed to the engine."""
        size = len(dispatch.requests)
        longest = max(request.prompt_tokens for request in dispatch.requests)
        self._batches[dispatch.batch] = _Progress(size, size, now_s, longest)

    def settle(self, live: LiveRequest, policy: Policy, now_s: float) -> None:
        """A request ended; where it was its batch's last, the policy learns of the batch."""
        batch = self._batches.get(live.dispatch.batch) if live.dispatch else None
        if batch is None or live.dispatch is None:
            return
        batch.left -= 1
        batch.generation_tokens = max(batch.generation_tokens, len(live.tokens))
        if batch.left == 0:
            del self._batches[live.dispatch.batch]
            if batch.generation_tokens:
                policy.observe(
                    batch.size,
                    batch.prompt_tokens,
                    batch.generation_tokens,
                    now_s - batch.began_s,
                )

    def clear(self) -> None:
        """Forget all: what now comes in between is no batch's doing."""
        self._batches.clear()
