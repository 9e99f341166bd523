"""The time that a client has to read on, once it does not keep up with a file."""

from asyncio import AbstractEventLoop
from asyncio.events import TimerHandle
from collections.abc import Callable


class StalledDownload:
    """Calls `abandon` if a client reads nothing for `limit_s` seconds."""

    def __init__(
        self, loop: AbstractEventLoop, limit_s: float, abandon: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._abandon = abandon
        self._timer: TimerHandle | None = None

    def begin(self) -> None:
        """More is waiting to be sent than the connection takes."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._abandon)

    def end(self) -> None:
        """The client reads again, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
