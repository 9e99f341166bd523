"""Fixed batches, first come, first served: what most run today, and Magnus's baseline (VS)."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, takewhile

from gateway.scheduling.admission import Capacity
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.least import Least
from gateway.scheduling.response_ratio import response_ratio
from gateway.scheduling.serving_time import ServingTime
from gateway.scheduling.waiting import Running, Waiting, WaitingBatch


class FixedPolicy:
    """Batches of the `size` oldest requests; the next starts when the one before has ended.

    Predictions play no part: every request is admitted at its longest, prompt and max_tokens, so
    memory holds whatever comes. An idle engine takes what waits, be it fewer than `size`.
    """

    name = "fixed"

    def __init__(self, size: int, capacity: Capacity, ids: Iterator[str]) -> None:
        self._size = size
        self._capacity = capacity
        self._ids = ids
        self._serving = ServingTime()
        self._serials = count()
        self._serial_of: dict[str, int] = {}
        self._requests: dict[int, Waiting] = {}
        self._arrival = Least(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def arrive(self, request: Waiting) -> None:
        """Let a request wait. ValueError if one with this id waits already."""
        if request.id in self._serial_of:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        serial = self._serial_of[request.id] = next(self._serials)
        self._requests[serial] = request
        self._arrival.push(request.arrived_s, serial)

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""
        serial = self._serial_of.pop(request_id, None)
        return serial is not None and self._requests.pop(serial, None) is not None

    def dispatch(self, running: Sequence[Running], now_s: float) -> Dispatch | None:
        """The next batch; None while anything runs."""
        if running or not self:
            return None
        requests = self._next(self._first(self._size))
        for request in requests:
            self.withdraw(request.id)
        waited_s = max(now_s - requests[0].arrived_s, 0.0)
        serving_s = self._serving_s(requests)
        return Dispatch(
            batch=next(self._ids),
            requests=requests,
            serving_s=serving_s,
            ratio=response_ratio(waited_s, serving_s),
            waited_s=waited_s,
            overdue=False,
        )

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn a batch's serving time; it is told, and orders nothing."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)

    def resize(self, pages: int, page_tokens: int) -> None:
        """Fill a KV pool of this size from now on; what waits stays."""
        self._capacity = self._capacity.resized(pages, page_tokens)

    def waiting(self) -> Sequence[WaitingBatch]:
        """The batches as they would run if nothing more came, in that order."""
        left = self._first(len(self))
        batches: list[WaitingBatch] = []
        while left:
            requests = self._next(left[: self._size])
            left = left[len(requests) :]
            batches.append(
                WaitingBatch(
                    id=f"{self.name} {len(batches) + 1}",
                    model=requests[0].model,
                    requests=requests,
                    insertable=len(requests) < self._size,
                    serving_s=self._serving_s(requests),
                )
            )
        return batches

    def check(self) -> None:
        """AssertionError where the requests and their ids disagree."""
        assert len(self._serial_of) == len(self._requests)
        for request_id, serial in self._serial_of.items():
            assert self._requests[serial].id == request_id

    def _first(self, count: int) -> list[Waiting]:
        return [self._requests[serial] for serial in self._arrival.first(count)]

    def _next(self, oldest: Sequence[Waiting]) -> tuple[Waiting, ...]:
        """As many of these as share the first's model and fit at their longest; at least one."""
        alike = list(takewhile(lambda request: request.model == oldest[0].model, oldest))
        filled = accumulate(self._capacity.longest_pages(request) for request in alike)
        fitting = bisect_right(list(filled), self._capacity.pages)
        return tuple(alike[: max(fitting, 1)])

    def _serving_s(self, requests: Sequence[Waiting]) -> float:
        return self._serving.estimate(
            len(requests),
            max(request.prompt_tokens for request in requests),
            max(request.median for request in requests),
        )
