"""S0: the live gateway against a replay of the same requests, its cost measured just before."""

import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.paths import PLOTS, ROOT
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from benchmarks.live.gateway_process import GatewayProcess, Served, Steps, environment
from benchmarks.live.plots import draw
from benchmarks.live.traffic import Planned, plan, send
from gateway.quantiles import Floats
from gateway.replay.cost.calibration import CalibratedEngine
from gateway.replay.cost.model import LinearCost
from gateway.replay.measure.outcomes import Outcomes
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, PolicyName, build_policy

REQUESTS: Final = 500
POLICIES: Final[tuple[PolicyName, ...]] = ("fcfs", "lmaas")
LOAD: Final = 0.85  # of the throughput measured with everything queued
QUEUED: Final = 150  # requests, to measure it
WARMING: Final = 20
SEED: Final = 17
SETTINGS: Final = {
    "kv_tokens": 1_792,  # about nine of these requests at their end
    "host_kv_tokens": 0,  # what is preempted is computed again
    "prefix_sharing": "false",  # a replay knows lengths alone
    "tau_floor": -1,  # no falling back on order of arrival: it has tests of its own
}
MEAN_OFF: Final = 0.10
P99_OFF: Final = 0.15


class Pass(Struct, frozen=True):
    """One policy: what history says of the requests, what a client saw, and what replay says.

    `pace` is what the engine's steps took in all, over what the calibrated cost says of them: a
    machine that does other things too is not as fast at all times. `replayed` goes by that pace,
    `unpaced` by the calibration alone.
    """

    served: Served
    client_s: Floats
    pace: float
    replayed: Outcomes
    unpaced: Outcomes

    @property
    def replayed_s(self) -> Floats:
        """Response times in replay."""
        return self.replayed.finished_s - self.served.workload.arrived_s

    @property
    def unpaced_s(self) -> Floats:
        """Response times in replay as fast as calibrated."""
        return self.unpaced.finished_s - self.served.workload.arrived_s


def run(requests: int, load: float) -> None:
    """Measure the engine, its saturated throughput, then every policy live and in replay."""
    look = requests != REQUESTS or load != LOAD
    report = Report("S0", look)
    engine = calibrated(report)
    passes: dict[str, Measured[Pass]] = {}
    with GatewayProcess("S0", **SETTINGS) as gateway:
        send(gateway.url, plan(WARMING, SEED))
        gateway.use("fcfs")
        queued = quietest(
            partial(_passed, gateway, engine, "fcfs", plan(QUEUED, SEED + 2)),
            partial(_told, report, "fcfs, all queued"),
            gateway.meter,
        ).outcome
        tokens_s = saturated(queued.served)
        rate_s = load * tokens_s / mean(each.tokens for each in plan(requests, SEED))
        for policy in POLICIES:
            gateway.use(policy)
            planned = plan(requests, SEED, rate_s)
            passes[policy] = quietest(
                partial(_passed, gateway, engine, policy, planned),
                partial(_told, report, policy),
                gateway.meter,
            )
            rows = rows_of(engine, queued, rate_s, passes)
            report.write(rows, targets(rows))
    if not look:
        draw({name: each.outcome for name, each in passes.items()}, PLOTS)
    report.conclude(rows, targets(rows))


def calibrated(report: Report) -> CalibratedEngine:
    """The engine as `lmaas calibrate` tells it, with the settings that the gateway gets."""
    with TemporaryDirectory(prefix="lmaas-bench-") as folder:
        out = Path(folder) / "engine.json"
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "calibrate", "--out", str(out)],
            cwd=ROOT,
            env=environment(SETTINGS),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"lmaas calibrate failed: {done.stderr.strip().splitlines()[-1]}")
        for line in done.stdout.splitlines()[:-1]:
            report.say(line)
        return msgspec.json.decode(out.read_bytes(), type=CalibratedEngine)


def saturated(served: Served) -> float:
    """Tokens generated a second while something waits, of requests that all came at once."""
    workload = served.workload
    ends_s = workload.arrived_s + served.response_s
    last_s = float((workload.arrived_s + served.queued_s).max())  # then nothing waits any more
    begun_s = float((workload.arrived_s + served.queued_s).min())
    share = np.clip(
        (last_s - workload.arrived_s - served.first_token_s)
        / np.maximum(ends_s - workload.arrived_s - served.first_token_s, 1e-9),
        0.0,
        1.0,
    )
    return float((share * workload.generation_tokens).sum() / (last_s - begun_s))


def targets(rows: Iterable[Row]) -> list[Target]:
    """The verdicts on both policies."""
    found = {row["policy"]: row for row in rows if "mean_off" in row}
    verdicts = []
    for policy in POLICIES:
        row = found.get(policy, {})
        for name, bound in (("mean", MEAN_OFF), ("p99", P99_OFF)):
            off = row.get(f"{name}_off")
            value = None if off is None else abs(off)
            verdicts.append(
                target(f"{policy}: {name} response, replay off live", value, bound, "at most")
            )
    return verdicts


def rows_of(
    engine: CalibratedEngine, queued: Pass, rate_s: float, passes: dict[str, Measured[Pass]]
) -> list[Row]:
    """The policies, then the engine as calibrated and as everything queued shows it."""
    found: list[Row] = [_row(name, rate_s, measured) for name, measured in passes.items()]
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


def _row(policy: str, rate_s: float, measured: Measured[Pass]) -> Row:
    passed = measured.outcome
    live_s, replay_s = passed.served.response_s, passed.replayed_s
    live = {"mean": live_s.mean(), "p50": np.median(live_s), "p99": np.quantile(live_s, 0.99)}
    told = {"mean": replay_s.mean(), "p50": np.median(replay_s), "p99": np.quantile(replay_s, 0.99)}
    return {
        "policy": policy,
        "requests": len(live_s),
        "rate_s": rate_s,
        **{f"live_{name}_s": float(value) for name, value in live.items()},
        **{f"replay_{name}_s": float(value) for name, value in told.items()},
        **{f"{name}_off": float(told[name] / live[name] - 1) for name in live},
        "pace": passed.pace,
        "unpaced_mean_off": float(passed.unpaced_s.mean() / live_s.mean() - 1),
        "live_queued_s": float(passed.served.queued_s.mean()),
        "replay_queued_s": float(
            (passed.replayed.dispatched_s - passed.served.workload.arrived_s).mean()
        ),
        "client_mean_s": float(passed.client_s.mean()),
        "preempted": passed.served.preemptions,
        "replay_preempted": int(passed.replayed.preemptions.sum()),
        "foreign": measured.load.foreign,
        "attempt": measured.attempt,
        "live": live_s.round(4).tolist(),
        "replay": replay_s.round(4).tolist(),
    }


def _passed(
    gateway: GatewayProcess, engine: CalibratedEngine, policy: PolicyName, planned: list[Planned]
) -> Pass:
    """Send requests, read what history has of them, and replay just that."""
    since, before = datetime.now(UTC), gateway.steps()
    client_s = np.array(send(gateway.url, planned))
    steps = gateway.steps().since(before)
    served = gateway.served(since, len(planned))

    def at(pace: float) -> Outcomes:
        paced = msgspec.structs.replace(engine, cost=engine.fit.cost.paced(pace))
        return replay(served.workload, build_policy(policy, Options()), paced, tau_floor=None)

    pace = steps.busy_s / calibrated_s(engine.fit.cost, served.workload, steps)
    return Pass(served, client_s, pace, at(pace), at(1.0))


def calibrated_s(cost: LinearCost, workload: Workload, steps: Steps) -> float:
    """What the steps that served these requests should have taken, by the calibrated cost.

    Whatever was batched with what: of the cost only the number of steps depends on that. A token
    reads those before it; the first of an answer comes with its prompt.
    """
    prompts = workload.prompt_tokens.astype(np.float64)
    decoded = workload.generation_tokens - 1
    in_all = int(decoded.sum())
    reads = float((decoded * (prompts + (decoded + 1) / 2)).sum())
    in_one_s = cost.seconds(
        round(steps.computed) - in_all, in_all, reads, float((prompts**2 / 2).sum())
    )
    return in_one_s + (steps.number - 1) * cost.step_s


def _span_s(response_s: Floats) -> float:
    """From the arrival of all at once to the last answer."""
    return float(response_s.max())


def _told(report: Report, name: str, measured: Measured[Pass]) -> None:
    passed = measured.outcome
    live_s, replay_s = passed.served.response_s, passed.replayed_s
    report.say(
        f"{name}: mean {live_s.mean():.3f} s live, {replay_s.mean():.3f} s in replay; "
        f"p99 {np.quantile(live_s, 0.99):.3f} s and {np.quantile(replay_s, 0.99):.3f} s; "
        f"steps took {passed.pace:.2f} times as long as calibrated; {measured}"
    )
