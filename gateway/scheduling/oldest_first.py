"""What the policies have in common that keep requests in order of arrival."""

from collections.abc import Iterator

from gateway.scheduling.admission import Admission
from gateway.scheduling.arrivals import ArrivalOrder
from gateway.scheduling.plain import PlainPolicy
from gateway.scheduling.waiting import Waiting


class OldestFirst(PlainPolicy):
    """A queue in order of arrival; which of the oldest start is the policy's business."""

    def __init__(self, name: str, *, admission: Admission, ids: Iterator[str]) -> None:
        super().__init__(name, admission=admission, ids=ids)
        self._arrivals = ArrivalOrder()

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._arrivals

    def arrive(self, request: Waiting) -> None:
        """Let a request wait. ValueError if one with this id waits already."""
        self._arrivals.add(request)
        self._watch(request)

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""
        return self._arrivals.remove(request_id)

    def check(self) -> None:
        """AssertionError where the requests and their ids disagree."""
        self._arrivals.check()
