"""S3 live: reservations in the real gateway and engine, also by a predictor that lies.

All requests are queued before the first one starts, at a small KV pool. A predictor lies because it
was trained on a log that states wrong lengths, imported as any operator can. Each misled contender
has a gateway of its own: the true lengths that it learns would correct the next pass.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from time import monotonic, sleep
from typing import Final

from benchmarks.harness.report import Report, Row, Target
from benchmarks.harness.retry import MAX_REPEATS, Measured, quietest
from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.live.learning import described, learn, learn_log
from benchmarks.live.open_loop import TimedBody
from benchmarks.live.traffic import Answer, ask
from benchmarks.s3.live_cells import HONEST, MAXIMUM, MISLED, TRUE, LiveContender, LivePass
from benchmarks.s3.live_occupancy import Occupancy
from benchmarks.s3.live_plots import draw
from benchmarks.s3.live_requests import LIES, MAX_TOKENS, bodies, log_of, questions
from benchmarks.s3.live_rows import rows_of, targets

FIGURE: Final = "S3-live"
REQUESTS: Final = 400
QUICK_REQUESTS: Final = 60
LEARNED: Final = 300  # answers that a predictor is trained on
QUICK_LEARNED: Final = 120
QUICK_MISLED: Final = list(MISLED.items())[:1]
SEED: Final = 43
QUEUE_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.1
SETTINGS: Final = {
    "kv_tokens": 1_152,  # for two sequences of the greatest length, or a dozen of the mean one
    "prefix_sharing": "false",
    "tau_floor": -1,  # no fallback to order of arrival, however bad the predictions
    "prediction_budget_ms": 10_000,  # all arrive at once, and each has its own prediction
}
COUNTS: Final = ("computed_tokens", "failed", "shrinks", "extensions", "preemptions", "swaps")


def run(*, quick: bool) -> None:
    """Measure all contenders; the result is written after each."""
    S3Live(Report(FIGURE, look=quick), quick=quick).run()


class S3Live:
    """The passes of all contenders over the same requests."""

    def __init__(self, report: Report, *, quick: bool) -> None:
        self._report = report
        self._asked = questions(QUICK_REQUESTS if quick else REQUESTS, SEED)
        self._learned = questions(QUICK_LEARNED if quick else LEARNED, SEED + 1)
        self._repeats = 0 if quick else MAX_REPEATS
        self._misled_by = dict(QUICK_MISLED if quick else MISLED)
        self._passes: dict[str, Measured[LivePass]] = {}

    def run(self) -> None:
        """All contenders: those with honest predictions first, which give the true lengths."""
        true = self._honest()
        for lie, contenders in self._misled_by.items():
            for contender in contenders:
                self._misled(contender, LIES[lie](true))
        rows = rows_of(self._passes)
        draw(self._passes, self._report.plots)
        self._report.conclude(rows, self._targets(rows))

    def _honest(self) -> list[int]:
        """The passes in one gateway that has learned from its own answers; their lengths."""
        with GatewayProcess(FIGURE, **SETTINGS) as gateway, gateway.admin() as admin:
            most = [MAX_TOKENS] * len(self._learned)
            learned = answered(ask(gateway.url, bodies(self._learned, most)))
            self._report.say(f"{described(learn(admin))} of its own")
            for contender in HONEST:
                self._measure(
                    quietest(
                        partial(self._pass, gateway, contender),
                        partial(self._say, contender),
                        gateway.meter,
                        self._repeats,
                    )
                )
        return [answer.tokens for answer in learned]

    def _misled(self, contender: LiveContender, stated: list[int]) -> None:
        """The pass of a contender in a gateway that has learned these lengths from a log."""
        with GatewayProcess(FIGURE, **SETTINGS) as gateway, gateway.admin() as admin:
            trained = learn_log(admin, lambda app: log_of(app, self._learned, stated))
            self._report.say(f"{described(trained)} of a log: {contender.lengths}")
            meter = gateway.meter()
            found = Measured(self._pass(gateway, contender), meter.load(), 1)
            self._say(contender, found)
            self._measure(found)

    def _pass(self, gateway: GatewayProcess, contender: LiveContender) -> LivePass:
        """Send all requests and read what happened to them."""
        gateway.use(contender.policy, admission=contender.admission)
        asked = bodies(self._asked, self._max_tokens(contender))
        since, before = datetime.now(UTC), gateway.engine_counts()
        with Occupancy(gateway) as occupancy:
            answers = queued_first(gateway, asked)
        after = gateway.engine_counts()
        return LivePass(
            contender=contender,
            answers=answers,
            served=gateway.served(since, len(asked)),
            samples=occupancy.samples,
            counts={name: after[name] - before[name] for name in COUNTS},
        )

    def _max_tokens(self, contender: LiveContender) -> list[int]:
        """What each request allows: for the oracle its true length, known from `maximum`."""
        if contender.lengths != TRUE:
            return [MAX_TOKENS] * len(self._asked)
        return [answer.tokens for answer in self._passes[MAXIMUM.name].outcome.answers]

    def _measure(self, found: Measured[LivePass]) -> None:
        self._passes[found.outcome.contender.name] = found
        rows = rows_of(self._passes)
        self._report.write(rows, self._targets(rows))

    def _targets(self, rows: list[Row]) -> list[Target]:
        misled = chain.from_iterable(self._misled_by.values())
        return list(targets(rows, [each.name for each in (*HONEST, *misled)]))

    def _say(self, contender: LiveContender, measured: Measured[LivePass]) -> None:
        found = measured.outcome
        self._report.say(
            f"{contender.name}: {found.in_memory:.1f} in memory, {found.tokens_s:,.0f} tokens/s, "
            f"KV use {found.kv_use:.0%}, {found.counts['extensions']:.0f} extended, "
            f"{found.counts['preemptions']:.0f} preempted, {found.lost} lost; {measured}"
        )


def queued_first(gateway: GatewayProcess, asked: list[TimedBody]) -> list[Answer]:
    """The answers, none of which begins before all requests are predicted and queued.

    The engine is paused meanwhile. RuntimeError if they are not queued after a timeout.
    """
    with ThreadPoolExecutor(1) as pool, gateway.admin() as admin:
        admin.post("/admin/engine/pause")
        try:
            answers = pool.submit(ask, gateway.url, asked)
            end = monotonic() + QUEUE_TIMEOUT_S
            while (waiting := admin.get("/admin/engine")["waiting"]) < len(asked):
                if answers.done() or monotonic() > end:
                    raise RuntimeError(
                        f"{waiting} requests are queued where {len(asked)} were sent"
                    )
                sleep(POLL_S)
        finally:
            admin.post("/admin/engine/resume")
        return answers.result()


def answered(answers: list[Answer]) -> list[Answer]:
    """The answers. RuntimeError if one failed."""
    for answer in answers:
        if answer.error is not None:
            raise RuntimeError(f"a request failed: {answer.error}")
    return answers
