"""S0: the live gateway against a replay of the same requests, at a cost measured just before."""

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured
from benchmarks.live.calibration import calibrated
from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.live.passes import QUEUED_REQUESTS, SETTINGS, Passes, PolicyRun, saturated_rate_s
from benchmarks.live.plots import draw
from benchmarks.live.traffic import plan
from gateway.quantiles import Floats
from gateway.replay.cost.calibration import CalibratedEngine
from gateway.scheduling.policy import PolicyName

REQUESTS: Final = 500
POLICIES: Final[tuple[PolicyName, ...]] = ("fcfs", "lmaas")
LOAD: Final = 0.85  # relative to the saturated throughput
SEED: Final = 17
MAX_MEAN_ERROR: Final = 0.10
MAX_P99_ERROR: Final = 0.15


def run(requests: int, load: float) -> None:
    """Calibrate, measure the saturated throughput, then run every policy live and replayed."""
    look = requests != REQUESTS or load != LOAD
    report = Report("S0", look)
    engine = calibrated(SETTINGS, report.say)
    policy_runs: dict[str, Measured[PolicyRun]] = {}
    with GatewayProcess("S0", **SETTINGS) as gateway:
        passes = Passes(gateway, engine, report)
        passes.warm_up(plan(requests, SEED))
        queued = passes.queued(plan(QUEUED_REQUESTS, SEED + 2))
        rate_s = load * saturated_rate_s(queued, plan(requests, SEED))
        for policy in POLICIES:
            policy_runs[policy] = passes.of(policy, plan(requests, SEED, rate_s), policy)
            rows = rows_of(engine, queued, rate_s, policy_runs)
            report.write(rows, targets(rows))
    if not look:
        draw({name: each.outcome for name, each in policy_runs.items()}, report.plots)
    report.conclude(rows, targets(rows))


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


def _span_s(response_s: Floats) -> float:
    """The time from the common arrival of all requests to the last answer."""
    return float(response_s.max())
