"""The requests of this gateway that have not ended."""

from collections.abc import Iterator
from uuid import UUID

from gateway.generation.request_state import RequestState
from gateway.scheduling.requests import QueuedRequest, RunningSequence


class RequestTable:
    """Queued requests by id, in order of arrival, and those in the engine, by sequence id."""

    def __init__(self) -> None:
        self.waiting: dict[str, RequestState] = {}
        self.running: dict[str, RequestState] = {}

    def __iter__(self) -> Iterator[RequestState]:
        """All requests: queued, then running."""
        return iter((*self.waiting.values(), *self.running.values()))

    def find(self, request_id: UUID) -> RequestState | None:
        """The queued or running request with this id, if any."""
        waiting = self.waiting.get(request_id.hex)
        return waiting or next((r for r in self.running.values() if r.id == request_id), None)

    def queued(self) -> list[QueuedRequest]:
        """The queued requests, as policies see them."""
        return [state.to_queued() for state in self.waiting.values() if not state.on_host]

    def in_engine(self) -> list[RunningSequence]:
        """The sequences in the engine's KV pool, as admission sees them."""
        return [state.to_running() for state in self.running.values() if not state.on_host]
