"""What the policies have in common that know neither shares nor deadlines nor bounds."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import ClassVar, Literal

from gateway.scheduling.admission import Admission
from gateway.scheduling.capacity import Capacity
from gateway.scheduling.dispatch import Dispatch, Reason, dispatch_of, waiting_batch_of
from gateway.scheduling.serving_time import ServingTime
from gateway.scheduling.waiting import Waiting, WaitingBatch


class PlainPolicy(ABC):
    """The published orders and the usual ones, for comparison; they trust predictions always.

    They keep a maximum queue time, and know no other deadline.
    """

    lockstep: ClassVar = False
    order: ClassVar[Literal["policy", "arrival"]] = "policy"

    def __init__(self, name: str, *, admission: Admission, ids: Iterator[str]) -> None:
        self.name = name
        self.admission = admission
        self._ids = ids
        self._serving = ServingTime()
        self._serials = count()
        self._expiring: list[tuple[float, int, Waiting]] = []

    @abstractmethod
    def __len__(self) -> int:
        """Requests waiting."""

    @abstractmethod
    def __contains__(self, request_id: str) -> bool:
        """Whether the request waits here."""

    @abstractmethod
    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""

    def ended(self, request: Waiting, generated: int, now_s: float) -> None:
        """A dispatched request ended: its memory is free."""
        del generated, now_s
        self.admission.leave(request.id)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn a batch's serving time."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)

    def give_up(self, now_s: float) -> list[Waiting]:
        """Withdraws the requests that have waited for as long as they may."""
        given_up = []
        while self._expiring and self._expiring[0][0] < now_s:
            request = heappop(self._expiring)[2]
            if self.withdraw(request.id):
                given_up.append(request)
        return given_up

    def trust(self, trusted: bool) -> None:
        """Nothing changes: these orders trust predictions always."""
        del trusted

    def resize(self, pages: int, page_tokens: int) -> None:
        """Admit to a KV pool of this size from now on; what waits stays."""
        self.admission.resize(Capacity(pages, page_tokens))

    def _watch(self, request: Waiting) -> None:
        """Give the request up in time, if it has a maximum queue time."""
        if request.start_by_s is None:
            return
        heappush(self._expiring, (request.start_by_s, next(self._serials), request))
        if len(self._expiring) > 2 * len(self) + 64:  # most have started
            self._expiring = [item for item in self._expiring if item[2].id in self]
            heapify(self._expiring)

    def _dispatch(
        self, requests: Sequence[Waiting], now_s: float, reason: Reason = "rank"
    ) -> Dispatch:
        serving_s = self._serving.of(requests)
        batch = next(self._ids)
        return dispatch_of(batch, requests, serving_s=serving_s, now_s=now_s, reason=reason)

    def _shown(self, name: str, requests: Sequence[Waiting], now_s: float) -> WaitingBatch:
        """Requests that wait together."""
        serving_s = self._serving.of(requests)
        return waiting_batch_of(name, requests, serving_s=serving_s, now_s=now_s)
