"""A rule to compare with: the future peak with a margin that follows the preemption rate."""

from statistics import NormalDist
from typing import Final

from gateway.replay.engine.sequence import EngineStatistics
from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest

TARGET: Final = 0.1  # preemptions per request that ends while others wait
MAX_STALLS: Final = 1.6  # of running sequences by preemptions, per such request
ENDS_PER_Z: Final = 500.0  # without a preemption, that lower z by 1
MAX_Z: Final = 8.0


class AdaptiveMarginPolicy(FcfsPolicy):
    """FCFS while `max_h (E[use(h)] + z·sd[use(h)]) ≤ capacity`, z ≥ 0.

    Each preemption raises z, each request that ends while others wait lowers it. It settles at
    `TARGET` preemptions per request, fewer in inverse proportion where many run.
    """

    def __init__(self, statistics: EngineStatistics) -> None:
        self._peak = FuturePeak(NormalDist().inv_cdf(1 - TARGET))
        super().__init__("adaptive margin", admission=self._peak)
        self._statistics = statistics
        self._preemptions = 0
        self._running = 0

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request ended: release its memory and adapt the margin."""
        super().ended(request, generated, now_s)
        self._running -= 1
        preemptions = self._statistics.preemptions
        target = min(TARGET, MAX_STALLS / max(self._running, 1))
        excess = preemptions - self._preemptions - target * (len(self) > 0)
        self._preemptions = preemptions
        self._peak.z = min(max(self._peak.z + excess / (ENDS_PER_Z * target), 0.0), MAX_Z)

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The first request if it fits, or if nothing runs."""
        found = super().dispatch(now_s)
        self._running += found is not None
        return found
