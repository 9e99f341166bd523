"""The requests of this gateway that have not ended."""

from collections.abc import Iterator
from uuid import UUID

from gateway.generation.request_state import RequestState
from gateway.scheduling.requests import QueuedRequest, RunningSequence


class RequestTable:
    """Requests that wait, by id in order of arrival, and those in the engine, by sequence id."""

    def __init__(self) -> None:
        self.waiting: dict[str, RequestState] = {}
        self.running: dict[str, RequestState] = {}

    def __iter__(self) -> Iterator[RequestState]:
        """All of them: first what waits, then what runs."""
        return iter((*self.waiting.values(), *self.running.values()))

    def find(self, request_id: UUID) -> RequestState | None:
        """The request with this id, if it waits or runs."""
        waiting = self.waiting.get(request_id.hex)
        return waiting or next((r for r in self.running.values() if r.id == request_id), None)

    def queued(self) -> list[QueuedRequest]:
        """What waits, as the scheduler sees it."""
        return [live.waiting() for live in self.waiting.values()]

    def in_engine(self) -> list[RunningSequence]:
        """What the engine holds, as the scheduler sees it."""
        return [live.running() for live in self.running.values()]
