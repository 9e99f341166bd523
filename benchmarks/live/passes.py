"""One pass: planned requests under a policy on the live gateway, and replayed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import mean
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.report import Report
from benchmarks.harness.retry import MAX_REPEATS, Measured, quietest
from benchmarks.live.gateway_process import EngineSteps, GatewayProcess, ServedRequests
from benchmarks.live.traffic import PlannedRequest, send
from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.quantiles import Floats
from gateway.replay.cost.calibration import CalibratedEngine
from gateway.replay.cost.model import LinearCost
from gateway.replay.measure.results import ReplayResults
from gateway.replay.replicas import replay_engines
from gateway.replay.routers import ONE_QUEUE
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, PolicyName, build_policy

QUEUED_REQUESTS: Final = 150  # all at once, to measure the saturated throughput
WARM_UP_REQUESTS: Final = 20
SETTINGS: Final = {
    "model": DEMO_FOLDER,
    "kv_tokens": 1_792,  # for about nine of these requests at their end
    "host_kv_tokens": 0,  # preempted sequences are computed again
    "prefix_sharing": "false",  # a replay knows no texts
    "tau_floor": -1,  # no fallback to order of arrival: other tests cover it
}


class PolicyRun(Struct, frozen=True):
    """A run of one policy: requests from history, times seen by the client, and two replays.

    `pace` is the total time of the engine's steps over their calibrated cost: the speed of a
    machine with other work varies. `replayed` uses the cost times `pace`, `unpaced` the cost.
    """

    served: ServedRequests
    client_s: Floats
    pace: float
    replayed: ReplayResults
    unpaced: ReplayResults

    @property
    def replayed_s(self) -> Floats:
        """Response times in the replay at `pace`."""
        return self.replayed.finished_s - self.served.workload.arrived_s

    @property
    def unpaced_s(self) -> Floats:
        """Response times in the replay at the calibrated cost."""
        return self.unpaced.finished_s - self.served.workload.arrived_s


class Passes:
    """Passes through one gateway, each repeated if other processes disturbed it.

    Behind the gateway are `engines` of the engine that was calibrated.
    """

    def __init__(
        self,
        gateway: GatewayProcess,
        engine: CalibratedEngine,
        report: Report,
        repeats: int = MAX_REPEATS,
        engines: int = 1,
    ) -> None:
        self._gateway = gateway
        self._engines = [engine] * engines
        self._report = report
        self._repeats = repeats

    def warm_up(self, planned: list[PlannedRequest]) -> None:
        """Send a few requests; they are not measured."""
        send(self._gateway.url, planned[:WARM_UP_REQUESTS])

    def queued(self, planned: list[PlannedRequest]) -> PolicyRun:
        """A pass of requests that arrive at once, under FCFS: it gives the saturated throughput."""
        return self.of("fcfs", planned, "fcfs, all queued").outcome

    def of(
        self, policy: PolicyName, planned: list[PlannedRequest], name: str
    ) -> Measured[PolicyRun]:
        """The least disturbed pass of a policy; `name` is for the lines of progress."""
        self._gateway.use(policy)
        return quietest(
            partial(_run_policy, self._gateway, self._engines, policy, planned),
            partial(_say, self._report, name),
            self._gateway.meter,
            self._repeats,
        )


def saturated_rate_s(queued: PolicyRun, planned: list[PlannedRequest]) -> float:
    """The rate at which `planned` would arrive as fast as their tokens are generated at most."""
    return saturated_tokens_s(queued.served) / mean(each.tokens for each in planned)


def saturated_tokens_s(served: ServedRequests) -> float:
    """Tokens generated a second while requests wait; all requests arrived at once."""
    workload = served.workload
    ends_s = workload.arrived_s + served.response_s
    last_s = float((workload.arrived_s + served.queued_s).max())  # then no request waits
    first_s = float((workload.arrived_s + served.queued_s).min())
    share = np.clip(
        (last_s - workload.arrived_s - served.first_token_s)
        / np.maximum(ends_s - workload.arrived_s - served.first_token_s, 1e-9),
        0.0,
        1.0,
    )
    return float((share * workload.generation_tokens).sum() / (last_s - first_s))


def calibrated_s(cost: LinearCost, workload: Workload, steps: EngineSteps) -> float:
    """The calibrated cost of the steps that served these requests, of all engines together.

    The composition of batches does not matter: only the number of steps depends on it. A token
    reads those before it; the first token of an answer comes with its prompt.
    """
    prompts = workload.prompt_tokens.astype(np.float64)
    decoded = workload.generation_tokens - 1
    decoded_tokens = int(decoded.sum())
    reads = float((decoded * (prompts + (decoded + 1) / 2)).sum())
    one_step_s = cost.seconds(
        round(steps.computed) - decoded_tokens, decoded_tokens, reads, float((prompts**2 / 2).sum())
    )
    return one_step_s + (steps.number - 1) * cost.step_s


def _run_policy(
    gateway: GatewayProcess,
    engines: Sequence[CalibratedEngine],
    policy: PolicyName,
    planned: list[PlannedRequest],
) -> PolicyRun:
    """Send requests, read them from history, and replay them."""
    since, before = datetime.now(UTC), gateway.steps()
    client_s = np.array(send(gateway.url, planned))
    steps = gateway.steps().since(before)
    served = gateway.served(since, len(planned))
    cost = engines[0].fit.cost

    def at(pace: float) -> ReplayResults:
        scaled = [msgspec.structs.replace(each, cost=cost.scaled(pace)) for each in engines]
        queue = partial(build_policy, policy, Options())  # before as many engines as it is given
        return replay_engines(scaled, served.workload, queue, ONE_QUEUE, tau_floor=None)

    pace = steps.busy_s / calibrated_s(cost, served.workload, steps)
    return PolicyRun(served, client_s, pace, at(pace), at(1.0))


def _say(report: Report, name: str, measured: Measured[PolicyRun]) -> None:
    policy_run = measured.outcome
    live_s, replay_s = policy_run.served.response_s, policy_run.replayed_s
    report.say(
        f"{name}: mean {live_s.mean():.3f} s live, {replay_s.mean():.3f} s in replay; "
        f"p99 {np.quantile(live_s, 0.99):.3f} s and {np.quantile(replay_s, 0.99):.3f} s; "
        f"steps took {policy_run.pace:.2f} times as long as calibrated; {measured}"
    )
