"""S2 live: FCFS and our policy on the real gateway at three loads, each pass replayed.

Load 1 is FCFS's saturated throughput on this gateway, measured first. The setting is that of S0,
with KV memory for nine requests. The predictor has learned how long answers are from a log.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from benchmarks.harness.contenders import FCFS, OURS
from benchmarks.harness.report import Report
from benchmarks.harness.retry import MAX_REPEATS
from benchmarks.live.calibration import calibrated
from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.live.learning import described, learn_log
from benchmarks.live.passes import QUEUED_REQUESTS, SETTINGS, Passes, saturated_rate_s
from benchmarks.live.traffic import ANSWER_TOKENS, plan
from benchmarks.s2.live_plots import draw
from benchmarks.s2.live_rows import LoadRun, rows_of, targets
from gateway.prediction.lifecycle.log_format import LogLine
from gateway.scheduling.policy import PolicyName

FIGURE: Final = "S2-live"
LOADS: Final = (0.7, 0.9, 1.1)
POLICIES: Final[tuple[PolicyName, ...]] = (FCFS, OURS)
REQUESTS: Final = 500
QUICK_REQUESTS: Final = 120
QUICK_CALIBRATION_S: Final = 8.0
SEED: Final = 29
LEARNED: Final = 400  # lines of the log that the predictor learns from

requests = partial(plan, proportional=True)


def run(*, quick: bool) -> None:
    """Calibrate, measure the saturated throughput, then run both policies at each load."""
    report = Report(FIGURE, look=quick)
    count = QUICK_REQUESTS if quick else REQUESTS
    engine = calibrated(SETTINGS, report.say, QUICK_CALIBRATION_S if quick else None)
    found: list[LoadRun] = []
    with GatewayProcess(FIGURE, **SETTINGS) as gateway, gateway.admin() as admin:
        report.say(f"{described(learn_log(admin, log_of))} of a log")
        passes = Passes(gateway, engine, report, 0 if quick else MAX_REPEATS)
        passes.warm_up(requests(count, SEED))
        queued = passes.queued(requests(QUEUED_REQUESTS, SEED + 2))
        saturated_s = saturated_rate_s(queued, requests(count, SEED))
        report.say(f"FCFS saturated at {saturated_s:.2f} requests/s")
        for load in LOADS:
            planned = requests(count, SEED, load * saturated_s)
            done = {
                policy: passes.of(policy, planned, f"{policy} at {load:g}") for policy in POLICIES
            }
            found.append(LoadRun(load, load * saturated_s, done))
            rows = rows_of(found)
            report.write(rows, list(targets(rows, LOADS)))
    draw(found, report.plots)
    report.conclude(rows, list(targets(rows, LOADS)))


def log_of(app: str) -> Iterator[LogLine]:
    """A log of other requests of the kind that is sent."""
    for each in requests(LEARNED, SEED + 3):
        yield LogLine(app=app, input=each.question, tokens=each.tokens, max_tokens=ANSWER_TOKENS[1])
