"""Routers that choose an engine, with a queue of its own, when a request arrives.

They are what other systems have: they know what a load balancer knows, and no predicted length.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol, TypeAlias, get_args

from gateway.replay.simulator import Simulation
from gateway.replay.workload.workload import Workload
from gateway.scheduling.routing.prefixes import PrefixIndex

RouterName: TypeAlias = Literal[
    "predicted-finish", "round-robin", "least-requests", "least-tokens", "prefix-affinity"
]
ROUTER_NAMES: Final[tuple[RouterName, ...]] = get_args(RouterName)
ONE_QUEUE: Final = "predicted-finish"  # in front of all engines, by what is predicted

MIN_MATCH: Final = 0.5  # of a prompt: an engine that has less of it is not preferred
MAX_SPREAD: Final = 8  # requests more than on the least loaded engine, as an affinity may cause
MAX_RATIO: Final = 1.5  # times its requests, which must be exceeded too


class ArrivalRouter(Protocol):
    """Chooses an engine for each request when it arrives."""

    def choose(self, index: int, engines: Sequence[Simulation]) -> int:
        """The engine for the request at `index`."""


class RoundRobin:
    """The engines in turn."""

    def __init__(self, _workload: Workload, _pages: Sequence[int]) -> None:
        self._next = 0

    def choose(self, _index: int, engines: Sequence[Simulation]) -> int:
        """The next engine."""
        chosen, self._next = self._next, (self._next + 1) % len(engines)
        return chosen


class LeastRequests:
    """The engine with the fewest requests that wait or run; of several, in turn."""

    def __init__(self, _workload: Workload, _pages: Sequence[int]) -> None:
        self._last = -1

    def choose(self, _index: int, engines: Sequence[Simulation]) -> int:
        """The engine with the fewest requests."""
        self._last = _least([engine.requests for engine in engines], self._last)
        return self._last


class LeastTokens:
    """The engine with the fewest tokens: those in its KV memory, and prompts that wait for it."""

    def __init__(self, workload: Workload, _pages: Sequence[int]) -> None:
        self._arrived_s = workload.arrived_s
        self._last = -1

    def choose(self, index: int, engines: Sequence[Simulation]) -> int:
        """The engine with the fewest tokens."""
        now_s = float(self._arrived_s[index])
        tokens = [engine.queued_tokens() + engine.held_tokens(now_s) for engine in engines]
        self._last = _least(tokens, self._last)
        return self._last


class PrefixAffinity:
    """The engine that was sent most of a prompt before, unless it has many more requests.

    Where none has `MIN_MATCH` of it, or that one has `MAX_SPREAD` requests and `MAX_RATIO` times
    more than another, it is the engine with the fewest requests.
    """

    def __init__(self, workload: Workload, pages: Sequence[int]) -> None:
        self._workload = workload
        self._index = PrefixIndex(len(pages))
        for engine, tokens in enumerate(pages):
            self._index.resize(engine, tokens)
        self._last = -1

    def choose(self, index: int, engines: Sequence[Simulation]) -> int:
        """The engine with the prefix, or else the fewest requests."""
        blocks = self._workload.blocks(index)
        known = self._index.known_tokens(blocks)
        requests = [engine.requests for engine in engines]
        least = min(requests)
        enough = MIN_MATCH * float(self._workload.prompt_tokens[index])
        having = [
            engine
            for engine, tokens in enumerate(known)
            if tokens >= enough and requests[engine] <= max(least + MAX_SPREAD, MAX_RATIO * least)
        ]
        if having:
            chosen = min(having, key=lambda engine: (-known[engine], requests[engine]))
        else:
            chosen = self._last = _least(requests, self._last)
        self._index.sent(chosen, blocks)
        return chosen


ROUTERS: Final[dict[RouterName, Callable[[Workload, Sequence[int]], ArrivalRouter]]] = {
    "round-robin": RoundRobin,
    "least-requests": LeastRequests,
    "least-tokens": LeastTokens,
    "prefix-affinity": PrefixAffinity,
}


def _least(loads: Sequence[float], last: int) -> int:
    """The engine with the least load; of several the first after `last`."""
    least, count = min(loads), len(loads)
    return next(
        engine
        for engine in ((last + 1 + offset) % count for offset in range(count))
        if loads[engine] == least
    )
