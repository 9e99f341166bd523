"""When data that arrives together is parsed: for a few milliseconds in each turn of the loop."""

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

TURN_S: Final = 0.005  # of parsing, in one turn of the event loop


class PacedReading:
    """Bounds the time that parsing takes in one turn of the event loop; the rest waits in order.

    A request takes about 0.15 ms until it is parsed and perhaps refused. A flood of 2,000 that
    arrive together would hold up the loop for 0.3 s.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._spent_s = 0.0  # in this turn
        self._paced = False  # the next turn is awaited

    @property
    def exhausted(self) -> bool:
        """Whether what arrives now is to be parsed in a later turn."""
        return self._spent_s >= TURN_S or bool(self._waiting)

    def now(self, loop: AbstractEventLoop, parse: Callable[[], None]) -> None:
        """Parse in this turn."""
        self._await_turn(loop)
        began_s = perf_counter()
        parse()
        self._spent_s += perf_counter() - began_s

    def later(self, loop: AbstractEventLoop, parse: Callable[[], None]) -> None:
        """Parse in a later turn, after what waits already."""
        self._await_turn(loop)
        self._waiting.append(parse)

    def _await_turn(self, loop: AbstractEventLoop) -> None:
        if not self._paced:
            self._paced = True
            loop.call_soon(self._next, loop)

    def _next(self, loop: AbstractEventLoop) -> None:
        """A turn begins."""
        self._spent_s, self._paced = 0.0, False
        while self._waiting and self._spent_s < TURN_S:
            self.now(loop, self._waiting.popleft())
        if self._waiting:
            self._await_turn(loop)
