"""S0: the live gateway against a replay of the same requests, at a cost measured just before."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from statistics import mean
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from benchmarks.live.calibration import calibrated
from benchmarks.live.gateway_process import EngineSteps, GatewayProcess, ServedRequests
from benchmarks.live.plots import draw
from benchmarks.live.traffic import PlannedRequest, plan, send
from gateway.quantiles import Floats
from gateway.replay.cost.calibration import CalibratedEngine
from gateway.replay.cost.model import LinearCost
from gateway.replay.measure.results import ReplayResults
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, PolicyName, build_policy

REQUESTS: Final = 500
POLICIES: Final[tuple[PolicyName, ...]] = ("fcfs", "lmaas")
LOAD: Final = 0.85  # relative to the saturated throughput
QUEUED_REQUESTS: Final = 150  # all at once, to measure the saturated throughput
WARM_UP_REQUESTS: Final = 20
SEED: Final = 17
SETTINGS: Final = {
    "kv_tokens": 1_792,  # for about nine of these requests at their end
    "host_kv_tokens": 0,  # preempted sequences are computed again
    "prefix_sharing": "false",  # a replay knows no texts
    "tau_floor": -1,  # no fallback to order of arrival: other tests cover it
}
MAX_MEAN_ERROR: Final = 0.10
MAX_P99_ERROR: Final = 0.15


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


def run(requests: int, load: float) -> None:
    """Calibrate, measure the saturated throughput, then run every policy live and replayed."""
    look = requests != REQUESTS or load != LOAD
    report = Report("S0", look)
    engine = calibrated(SETTINGS, report.say)
    policy_runs: dict[str, Measured[PolicyRun]] = {}
    with GatewayProcess("S0", **SETTINGS) as gateway:
        send(gateway.url, plan(WARM_UP_REQUESTS, SEED))
        gateway.use("fcfs")
        queued = quietest(
            partial(_run_policy, gateway, engine, "fcfs", plan(QUEUED_REQUESTS, SEED + 2)),
            partial(_report, report, "fcfs, all queued"),
            gateway.meter,
        ).outcome
        tokens_s = saturated_tokens_s(queued.served)
        rate_s = load * tokens_s / mean(each.tokens for each in plan(requests, SEED))
        for policy in POLICIES:
            gateway.use(policy)
            planned = plan(requests, SEED, rate_s)
            policy_runs[policy] = quietest(
                partial(_run_policy, gateway, engine, policy, planned),
                partial(_report, report, policy),
                gateway.meter,
            )
            rows = rows_of(engine, queued, rate_s, policy_runs)
            report.write(rows, targets(rows))
    if not look:
        draw({name: each.outcome for name, each in policy_runs.items()}, report.plots)
    report.conclude(rows, targets(rows))


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


def targets(rows: Iterable[Row]) -> list[Target]:
    """The targets of both policies."""
    found = {row["policy"]: row for row in rows if "mean_off" in row}
    verdicts = []
    for policy in POLICIES:
        row = found.get(policy, {})
        for name, bound in (("mean", MAX_MEAN_ERROR), ("p99", MAX_P99_ERROR)):
            off = row.get(f"{name}_off")
            value = None if off is None else abs(off)
            verdicts.append(
                target(f"{policy}: {name} response, replay off live", value, bound, "at most")
            )
    return verdicts


def rows_of(
    engine: CalibratedEngine,
    queued: PolicyRun,
    rate_s: float,
    policy_runs: dict[str, Measured[PolicyRun]],
) -> list[Row]:
    """A row for each policy, and one for the engine: its cost, and the run with all queued."""
    found: list[Row] = [_row(name, rate_s, measured) for name, measured in policy_runs.items()]
    fit = engine.fit
    cost = msgspec.structs.asdict(fit.cost)
    live_s, replay_s = _span_s(queued.served.response_s), _span_s(queued.unpaced_s)
    found.append(
        {
            "engine": engine.model,
            **{f"{name} µs": 1e6 * value for name, value in cost.items()},
            "r2": fit.fitted.r2,
            "median_error": fit.fitted.median_error,
            "worst_error": fit.worst.error,
            "mix_error": fit.mix.median_error if fit.mix else None,
            "mix_sum_off": fit.mix.bias if fit.mix else None,
            "queued_live_s": live_s,
            "queued_replay_s": replay_s,
            "queued_off": replay_s / live_s - 1,
        }
    )
    return found


def _row(policy: str, rate_s: float, measured: Measured[PolicyRun]) -> Row:
    policy_run = measured.outcome
    live_s, replay_s = policy_run.served.response_s, policy_run.replayed_s
    live = {"mean": live_s.mean(), "p50": np.median(live_s), "p99": np.quantile(live_s, 0.99)}
    simulated = {
        "mean": replay_s.mean(),
        "p50": np.median(replay_s),
        "p99": np.quantile(replay_s, 0.99),
    }
    return {
        "policy": policy,
        "requests": len(live_s),
        "rate_s": rate_s,
        **{f"live_{name}_s": float(value) for name, value in live.items()},
        **{f"replay_{name}_s": float(value) for name, value in simulated.items()},
        **{f"{name}_off": float(simulated[name] / live[name] - 1) for name in live},
        "pace": policy_run.pace,
        "unpaced_mean_off": float(policy_run.unpaced_s.mean() / live_s.mean() - 1),
        "live_queued_s": float(policy_run.served.queued_s.mean()),
        "replay_queued_s": float(
            (policy_run.replayed.dispatched_s - policy_run.served.workload.arrived_s).mean()
        ),
        "client_mean_s": float(policy_run.client_s.mean()),
        "preempted": policy_run.served.preemptions,
        "replay_preempted": int(policy_run.replayed.preemptions.sum()),
        "foreign": measured.load.foreign,
        "attempt": measured.attempt,
        "live": live_s.round(4).tolist(),
        "replay": replay_s.round(4).tolist(),
    }


def _run_policy(
    gateway: GatewayProcess,
    engine: CalibratedEngine,
    policy: PolicyName,
    planned: list[PlannedRequest],
) -> PolicyRun:
    """Send requests, read them from history, and replay them."""
    since, before = datetime.now(UTC), gateway.steps()
    client_s = np.array(send(gateway.url, planned))
    steps = gateway.steps().since(before)
    served = gateway.served(since, len(planned))

    def at(pace: float) -> ReplayResults:
        scaled = msgspec.structs.replace(engine, cost=engine.fit.cost.scaled(pace))
        return replay(served.workload, build_policy(policy, Options()), scaled, tau_floor=None)

    pace = steps.busy_s / calibrated_s(engine.fit.cost, served.workload, steps)
    return PolicyRun(served, client_s, pace, at(pace), at(1.0))


def calibrated_s(cost: LinearCost, workload: Workload, steps: EngineSteps) -> float:
    """The calibrated cost of the steps that served these requests.

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


def _span_s(response_s: Floats) -> float:
    """The time from the common arrival of all requests to the last answer."""
    return float(response_s.max())


def _report(report: Report, name: str, measured: Measured[PolicyRun]) -> None:
    policy_run = measured.outcome
    live_s, replay_s = policy_run.served.response_s, policy_run.replayed_s
    report.say(
        f"{name}: mean {live_s.mean():.3f} s live, {replay_s.mean():.3f} s in replay; "
        f"p99 {np.quantile(live_s, 0.99):.3f} s and {np.quantile(replay_s, 0.99):.3f} s; "
        f"steps took {policy_run.pace:.2f} times as long as calibrated; {measured}"
    )
