"""The time limit of a client that does not read its answer."""

from asyncio import AbstractEventLoop
from asyncio.events import TimerHandle
from collections.abc import Callable


class UnreadAnswer:
    """Times a client for which something waits to be sent: it may take nothing for `limit_s`."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        limit_s: float,
        unsent: Callable[[], int],
        abandon: Callable[[], None],
    ) -> None:
        """`unsent` returns the bytes that wait; `abandon` is called at the limit."""
        self._loop = loop
        self._limit_s = limit_s
        self._unsent = unsent
        self._abandon = abandon
        self._timer: TimerHandle | None = None
        self._before = 0

    def begin(self) -> None:
        """More waits to be sent than the connection takes."""
        if self._timer is None:
            self._before = self._unsent()
            self._timer = self._loop.call_later(self._limit_s, self._look)

    def end(self) -> None:
        """The client reads again, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        left = self._unsent()
        if left >= self._before:
            self._abandon()
        elif left:
            self.begin()
