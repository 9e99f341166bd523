"""One pass: requests at their times, straight to vLLM or through the gateway."""

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import httpx
import numpy as np
from msgspec import Struct

from benchmarks.harness.upstream_servers import Server
from benchmarks.live.open_loop import TimedBody, completion, send_timed
from benchmarks.s1.live_models import LiveModel
from benchmarks.s1.live_traffic import PlannedQuestion, body
from gateway.quantiles import Floats

SAMPLE_S: Final = 2.0  # between two readings of the queue: each takes vLLM some milliseconds
WAITING: Final = "vllm:num_requests_waiting"


class SidePass(Struct, frozen=True):
    """Seconds from each request's time to its answer, (n,), its tokens, and vLLM's own queue."""

    at_s: Floats
    response_s: Floats
    tokens: Floats
    depths: Floats
    foreign: float = 0.0

    @property
    def tokens_s(self) -> float:
        """Tokens a second, from the first arrival to the last answer."""
        return float(self.tokens.sum() / (self.at_s + self.response_s).max())

    def saturated_rate_s(self, running: int) -> float:
        """Requests answered a second while `running` run, of a pass with all sent at once.

        Those that still run when the others have ended count half.
        """
        ends = np.sort(self.response_s)
        ended = len(ends) - running
        return float((ended + running / 2) / ends[ended - 1])


def send(
    url: str,
    server: Server,
    model: LiveModel,
    planned: Sequence[PlannedQuestion],
    keys: Mapping[str, str] | None = None,
) -> SidePass:
    """Send the questions at their times. RuntimeError for one that fails."""
    timed = [
        TimedBody(each.at_s, body(model, each), keys[each.question.app] if keys else "none")
        for each in planned
    ]
    with _depths(server) as depths:
        answers = asyncio.run(send_timed(url, timed, _answer))
    response_s, tokens = np.array(answers, np.float64).T
    at_s = np.array([each.at_s for each in planned])
    return SidePass(at_s, response_s, tokens, np.array(depths or [0.0]))


async def _answer(response: httpx.Response, response_s: float) -> tuple[float, float]:
    return response_s, float(completion(response)["usage"]["completion_tokens"])


@contextmanager
def _depths(server: Server) -> Iterator[list[float]]:
    """Readings of vLLM's own queue meanwhile."""
    found: list[float] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(SAMPLE_S):
            found.append(server.metric(WAITING))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
