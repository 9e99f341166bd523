"""One pass: the interactive requests, the job, or both, and what each got."""

from collections.abc import Callable
from contextlib import closing
from time import perf_counter, sleep
from typing import Final

from msgspec import Struct

from benchmarks.b3.job import job
from benchmarks.b3.streams import Streamed, send_streamed
from benchmarks.b3.traffic import Shape, bodies
from benchmarks.live.batches import BatchClient
from benchmarks.live.gateway_process import GatewayProcess

COUNTED: Final = ("generated_tokens", "computed_tokens", "steps", "steps_s", "preemptions")


class Pass(Struct, frozen=True):
    """The requests' answers, and what the engine did for the job meanwhile.

    `job_tokens` are answer tokens of the job; nothing of them is computed twice.
    """

    answers: list[Streamed]
    seconds: float
    job_tokens: float
    counted: dict[str, float]

    @property
    def job_tokens_s(self) -> float:
        """Answer tokens of the job a second."""
        return self.job_tokens / self.seconds


class Served:
    """A gateway that runs passes."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        with BatchClient(gateway.url) as client:
            self._model = client.model

    def requests(self, shapes: list[Shape], seed: int) -> Pass:
        """The interactive requests alone."""
        return self._counted(lambda: self._send(shapes, seed))

    def both(self, shapes: list[Shape], seed: int, lines: int) -> Pass:
        """The requests while a job of `lines` lines runs. RuntimeError if it ends before them."""
        return self._with_job(lines, seed, lambda: self._send(shapes, seed))

    def job_alone(self, seconds: float, seed: int, lines: int) -> Pass:
        """The job alone, for these seconds. RuntimeError if it ends before."""

        def wait() -> list[Streamed]:
            sleep(seconds)
            return []

        return self._with_job(lines, seed, wait)

    def saturated_rate_s(self, shapes: list[Shape], seed: int) -> float:
        """Requests a second when all are sent at once."""
        done = self.requests(shapes, seed)
        return len(shapes) / done.seconds

    def _send(self, shapes: list[Shape], seed: int) -> list[Streamed]:
        return send_streamed(self._gateway.url, bodies(shapes, self._model, seed))

    def _with_job(self, lines: int, seed: int, measure: Callable[[], list[Streamed]]) -> Pass:
        """Measure from the job's first outcome on; what is left of the job is cancelled."""
        with closing(BatchClient(self._gateway.url)) as client:
            batch = client.create(client.upload(job(lines, seed, self._model)))
            client.wait_for_outcomes(batch)
            done = self._counted(measure)
            if client.status(batch) != "in_progress":
                raise RuntimeError(f"{lines} lines of the job did not last as long as the requests")
            client.cancel(batch)
            client.ended(batch)
        return done

    def _counted(self, measure: Callable[[], list[Streamed]]) -> Pass:
        before, start = self._gateway.engine_counts(), perf_counter()
        answers = measure()
        after, seconds = self._gateway.engine_counts(), perf_counter() - start
        counted = {name: after[name] - before[name] for name in COUNTED}
        own = sum(answer.tokens for answer in answers)
        return Pass(answers, seconds, counted["generated_tokens"] - own, counted)
