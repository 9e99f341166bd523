"""The requests of this gateway that have not ended."""

from collections.abc import Iterable, Iterator
from uuid import UUID

from gateway.generation.request_state import RequestState
from gateway.scheduling.requests import QueuedRequest, RunningSequence


class RequestTable:
    """Queued requests by id, in order of arrival, and those in the engines, by sequence id.

    Those whose engine was lost are among the running ones until they go on.
    """

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
        """The sequences in the engines' KV pools, as admission sees them."""
        return [state.to_running() for state in self.running.values() if not state.on_host]

    def on_engine(self, engine: int) -> list[RunningSequence]:
        """What `in_engine` has of one engine."""
        return [state.to_running() for state in self.on(engine) if not state.on_host]

    def on(self, engine: int | None) -> list[RequestState]:
        """The requests that an engine has; None: those whose engine was lost."""
        return [state for state in self.running.values() if state.engine == engine]


def by_engine(states: Iterable[RequestState]) -> dict[int, list[RequestState]]:
    """Requests by the engine that has them; those that none has are left out."""
    grouped: dict[int, list[RequestState]] = {}
    for state in states:
        if state.engine is not None:
            grouped.setdefault(state.engine, []).append(state)
    return grouped
