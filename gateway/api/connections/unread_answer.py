"""The time limit of a client that does not read its answer."""

from asyncio import AbstractEventLoop
from asyncio.events import TimerHandle
from collections.abc import Callable


class UnreadAnswer:
    """Times a client for which something waits to be sent: it may take nothing for `limit_s`.

    It refers to its connection only while it does: a cycle would stay until garbage is searched.
    """

    def __init__(self, loop: AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._timer: TimerHandle | None = None

    def begin(self, unsent: Callable[[], int], abandon: Callable[[], None]) -> None:
        """More waits to be sent than the connection takes.

        `unsent` returns the bytes that wait; `abandon` is called at the limit.
        """
        if self._timer is None:
            self._timer = self._loop.call_later(
                self._limit_s, self._look, unsent(), unsent, abandon
            )

    def end(self) -> None:
        """The client reads again, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int, unsent: Callable[[], int], abandon: Callable[[], None]) -> None:
        self._timer = None
        left = unsent()
        if left >= before:
            abandon()
        elif left:
            self.begin(unsent, abandon)
