"""Clients that each send their next request when the previous one has ended.

Also imported in vLLM's environment, hence standard library only.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.engine.workload import Request


@dataclass
class Exchange:
    """A request's tokens and their times, in seconds after the start of the run."""

    sent_s: float
    tokens: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)


class ClosedLoop:
    """The state of a run: what was sent, what was received, and what is to be sent next."""

    def __init__(
        self, requests: Iterable[Request], now: Callable[[], float] = perf_counter
    ) -> None:
        self._waiting = list(requests)[::-1]
        self._now = now
        self._start = now()
        self._open: dict[str, int] = {}
        self.exchanges: dict[str, Exchange] = {}
        self.saturated_s: float | None = None  # when a client first found nothing to send

    def begin(self, clients: int) -> list[Request]:
        """The clients' first requests."""
        return [request for request in (self.next() for _ in range(clients)) if request]

    @property
    def done(self) -> bool:
        """Whether all requests have ended."""
        return not (self._waiting or self._open)

    def next(self) -> Request | None:
        """The next request to send; None if there is none."""
        if not self._waiting:
            if self.saturated_s is None:
                self.saturated_s = self._now() - self._start
            return None
        request = self._waiting.pop()
        self._open[request.id] = request.tokens
        self.exchanges[request.id] = Exchange(self._now() - self._start)
        return request

    def received(self, name: str, tokens: list[int]) -> bool:
        """Note tokens of a request; whether it has ended. RuntimeError for one too many."""
        exchange = self.exchanges[name]
        exchange.tokens += tokens
        exchange.at_s += [self._now() - self._start] * len(tokens)
        if len(exchange.tokens) > self._open[name]:
            raise RuntimeError(f"{name}: more than {self._open[name]} tokens")
        if len(exchange.tokens) < self._open[name]:
            return False
        del self._open[name]
        return True
