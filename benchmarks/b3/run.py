"""B3: interactive requests with a batch job and without, and the job with them and without.

The same arrivals in each pass of a round, with other words. Two gateways run, one as shipped and
one without the limit on background work; the one that has no pass is idle. The job alone runs in
the second: for a minute after requests, the first one still limits its steps.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from benchmarks.b3.model import random_model
from benchmarks.b3.passes import Pass, Served
from benchmarks.b3.rows import (
    ALONE,
    JOB,
    SHIPPED,
    UNPROTECTED,
    Passes,
    first_token_ms,
    rows_of,
    targets,
)
from benchmarks.b3.traffic import shapes
from benchmarks.harness.report import Report
from benchmarks.harness.retry import Measured, quietest
from benchmarks.live.gateway_process import GatewayProcess

FIGURE: Final = "B3"
REQUESTS: Final = 300  # of a pass
QUEUED: Final = 160  # sent at once, to measure what the engine sustains
WARM_UP: Final = 40
LOAD: Final = 0.5  # of that
ROUNDS: Final = 3
JOB_SECONDS: Final = 20.0  # of the job alone
LINES_A_SECOND: Final = 40  # of the job, more than it can do
SETTINGS: Final = {"engine_threads": 1, "kv_tokens": 16_384, "host_kv_tokens": 0}
NO_LIMIT: Final = {"engine_background_factor": 100}


def run(rounds: int, requests: int, load: float) -> None:
    """Run all passes of each round; writes the result after each round."""
    report = Report(FIGURE, look=requests != REQUESTS or load != LOAD)
    with ExitStack() as stack:
        folder = random_model()
        gateways = {
            kind: stack.enter_context(
                GatewayProcess(f"{FIGURE}-{name}", model=folder, **SETTINGS, **more)
            )
            for kind, name, more in (
                (SHIPPED, "shipped", {}),
                (UNPROTECTED, "no-limit", NO_LIMIT),
            )
        }
        B3(report, gateways, requests, load).run(rounds)


class B3:
    """The passes of all rounds."""

    def __init__(
        self, report: Report, gateways: dict[str, GatewayProcess], requests: int, load: float
    ) -> None:
        self._report = report
        self._meter = gateways[SHIPPED].meter
        self._shipped = Served(gateways[SHIPPED])
        self._unprotected = Served(gateways[UNPROTECTED])
        self._requests = requests
        self._load = load
        self._seed = 0
        self._passes: Passes = {}

    def run(self, rounds: int) -> None:
        """Warm up, measure what the engine sustains, then all rounds."""
        rate_s = self._load * self._sustained_s()
        for number in range(rounds):
            for kind, measure in self._in_turn(number, rate_s):
                found = quietest(measure, partial(self._say, kind), repeats=0)
                self._passes.setdefault(kind, []).append(found)
            self._report.write(rows_of(self._passes, rate_s), targets(self._passes))
        self._report.conclude(rows_of(self._passes, rate_s), targets(self._passes))

    def _in_turn(self, number: int, rate_s: float) -> list[tuple[str, Callable[[], Pass]]]:
        """The passes of a round, from another one on in each."""
        planned = shapes(self._requests, 2 * number, rate_s)
        lines = round(LINES_A_SECOND * (planned[-1].at_s + 10))
        passes: list[tuple[str, Callable[[], Pass]]] = [
            (ALONE, lambda: self._shipped.requests(planned, self._next())),
            (SHIPPED, lambda: self._shipped.both(planned, self._next(), lines)),
            (UNPROTECTED, lambda: self._unprotected.both(planned, self._next(), lines)),
            (JOB, lambda: self._unprotected.job_alone(JOB_SECONDS, self._next(), lines)),
        ]
        first = number % len(passes)
        return [*passes[first:], *passes[:first]]

    def _sustained_s(self) -> float:
        """Requests a second that the engine sustains; each gateway has run each kind of work."""
        warm_up = shapes(WARM_UP, 0, None)
        for served in (self._unprotected, self._shipped):
            served.both(warm_up, self._next(), LINES_A_SECOND * 10)
        sustained_s = self._shipped.saturated_rate_s(shapes(QUEUED, 0, None), self._next())
        self._report.say(f"{sustained_s:.2f} requests a second at most; load {self._load:g}")
        return sustained_s

    def _next(self) -> int:
        """The seed of words that no pass has had."""
        self._seed += 1
        return self._seed

    def _say(self, kind: str, measured: Measured[Pass]) -> None:
        done = measured.outcome
        times = first_token_ms(done)
        p99 = f"{sorted(times)[int(0.99 * len(times))]:.0f} ms" if len(times) else "none"
        self._report.say(
            f"{kind}: p99 first token {p99}, job {done.job_tokens_s:.0f} tokens/s, steps of "
            f"{1e3 * done.counted['steps_s'] / done.counted['steps']:.1f} ms; {measured}"
        )
