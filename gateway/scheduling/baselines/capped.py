"""First come, first served with few sequences at once: conservative continuous batching."""

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import FcfsPolicy


class CappedPolicy(FcfsPolicy):
    """At most `most_running` sequences at once: CCB, a baseline of Magnus (arXiv 2406.04785).

    Requests join and leave at every step, in order of arrival and without predictions. A server
    that does not know the lengths runs only as many as fit at the longest possible prompt and
    answer: the paper's 7, the batch size of its other baselines.
    """

    def __init__(self, name: str, most_running: int, *, admission: Admission) -> None:
        super().__init__(name, admission=admission)
        self._most_running = most_running

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        """Set the size of the KV pool; queued requests stay."""
        most = self._most_running if max_running is None else min(self._most_running, max_running)
        super().resize(pages, page_tokens, most)
