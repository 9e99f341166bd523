"""U2 live: two real engines behind one gateway, against a replay of the same requests.

The setting is that of S0: each engine has KV memory for nine requests, and a cost that was measured
just before, on one engine alone. Both engines have one thread.
"""

from collections.abc import Mapping
from typing import Final

from benchmarks.harness.report import Report, Row
from benchmarks.harness.retry import MAX_REPEATS, Measured
from benchmarks.live.calibration import calibrated
from benchmarks.live.engine_processes import EngineProcesses
from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.live.passes import QUEUED_REQUESTS, SETTINGS, Passes, PolicyRun, saturated_rate_s
from benchmarks.live.run import LOAD, POLICIES, rows_of, targets
from benchmarks.live.traffic import plan

FIGURE: Final = "U2-live"
ENGINES: Final = 2
REQUESTS: Final = 500
QUICK_REQUESTS: Final = 80
QUICK_CALIBRATION_S: Final = 8.0
SEED: Final = 53
OWN: Final = {**SETTINGS, "engine_threads": 1}


def run(*, quick: bool) -> None:
    """Calibrate, measure the saturated throughput of both, then run each policy live and replayed.

    RuntimeError if an engine does not start.
    """
    report = Report(FIGURE, look=quick)
    count = QUICK_REQUESTS if quick else REQUESTS
    engine = calibrated(OWN, report.say, QUICK_CALIBRATION_S if quick else None)
    done: dict[str, Measured[PolicyRun]] = {}
    shares: dict[str, float] = {}
    with (
        EngineProcesses(FIGURE, ENGINES, OWN) as engines,
        GatewayProcess(FIGURE, **OWN, engine_socket=engines.sockets) as gateway,
    ):
        engines.wait(gateway)
        passes = Passes(gateway, engine, report, 0 if quick else MAX_REPEATS, ENGINES)
        passes.warm_up(plan(count, SEED))
        queued = passes.queued(plan(QUICK_REQUESTS if quick else QUEUED_REQUESTS, SEED + 2))
        rate_s = LOAD * saturated_rate_s(queued, plan(count, SEED))
        for policy in POLICIES:
            before = gateway.generated_tokens()
            done[policy] = passes.of(policy, plan(count, SEED, rate_s), policy)
            shares[policy] = least_share(before, gateway.generated_tokens())
            report.say(f"{policy}: {shares[policy]:.0%} of the tokens by the engine with fewer")
            rows = [_with_engines(row, shares) for row in rows_of(engine, queued, rate_s, done)]
            report.write(rows, targets(rows))
    report.conclude(rows, targets(rows))


def least_share(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """The part of the tokens that came from the engine with the fewest."""
    tokens = [after.get(number, 0.0) - before.get(number, 0.0) for number in range(ENGINES)]
    return min(tokens) / sum(tokens)


def _with_engines(row: Row, shares: Mapping[str, float]) -> Row:
    """The row of a policy, with how the engines shared the work; that of the engine as it is."""
    policy = row.get("policy")
    if policy is None:
        return row
    return {"policy": policy, "engines": ENGINES, "least share": shares[policy], **row}
