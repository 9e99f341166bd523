"""The wait estimator in a replay: fed as the live gateway feeds it, and its bands kept."""

from collections.abc import Sequence
from math import inf

from msgspec import Struct

from gateway.replay.cost.model import EngineModel, GpuProfile, LinearCost
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.policy import Policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from gateway.scheduling.waits.bands import WaitBand
from gateway.scheduling.waits.estimator import INTERVAL_S, WaitEstimator
from gateway.scheduling.waits.snapshot import QueueSnapshot, RankingPolicy


class JudgedWait(Struct):
    """A request's band at its arrival, what waited then, and its wait; None: it never started."""

    arrived_s: float
    queued: int
    band: WaitBand
    waited_s: float | None = None


class ReplayedWaits:
    """Feeds an estimator, and keeps what it expected of each request that had to wait."""

    def __init__(self, engine: EngineModel) -> None:
        self.estimator = WaitEstimator()
        self.judged: dict[str, JudgedWait] = {}
        self.next_s = inf
        self._step = step_time(engine.cost)
        shape = engine.shape
        self._pool = float(shape.pages * shape.page_tokens)
        self._most = shape.max_interactive_sequences

    def arrived(self, policy: Policy, request: QueuedRequest) -> None:
        """A request was queued."""
        now_s, queued = request.arrived_s, len(policy) - 1
        if self.next_s == inf:
            self.next_s = now_s
        rank = policy.rank_of(request.id, now_s) if isinstance(policy, RankingPolicy) else None
        band = self.estimator.arrive(request, rank or 0.0, now_s)
        self.judged[request.id] = JudgedWait(now_s, queued, band)

    def started(self, request: QueuedRequest, now_s: float) -> None:
        """A request starts."""
        judged = self.judged[request.id]
        judged.waited_s = now_s - request.arrived_s
        self.estimator.started(request.id, now_s, waited=now_s > request.arrived_s)
        if now_s <= request.arrived_s:
            del self.judged[request.id]

    def look(self, policy: Policy, running: Sequence[RunningSequence], now_s: float) -> None:
        """Take a forecast, and have the next one due."""
        self.next_s = now_s + INTERVAL_S
        if not isinstance(policy, RankingPolicy):
            raise TypeError(f"{policy.name} shows no ranks")
        queue = policy.ranked(now_s)
        run = self.estimator.begin(
            now_s,
            lambda: QueueSnapshot(now_s, queue(), running, self._step, self._pool, self._most),
        )
        self.estimator.adopt(run.run())


def step_time(cost: LinearCost | GpuProfile) -> LinearStepTime:
    """The cost's coefficients; of a card, whose reads hide its computing, without the latter."""
    if isinstance(cost, LinearCost):
        return cost
    return LinearStepTime(
        cost.seconds(0, 0, 0.0),
        2 * cost.parameters / cost.flops_s,
        0.0,
        cost.kv_bytes_per_token / cost.bandwidth_bytes_s,
    )
