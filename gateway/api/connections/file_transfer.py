"""The time limits of files, larger than other bodies: of uploads, and of stalled downloads."""

from asyncio import AbstractEventLoop
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Final

from uvicorn._types import HTTPScope

from gateway.api.connections.limits import ConnectionLimits

FILES: Final = "/v1/files"


def body_timeout_s(scope: HTTPScope, limits: ConnectionLimits) -> float:
    """The longest time for a request's body.

    An upload without an API key is answered before its body, which ends the longer time.
    """
    uploads = scope["method"] == "POST" and scope["path"].startswith(FILES)
    return limits.upload_timeout_s if uploads else limits.body_timeout_s


class StalledDownload:
    """Times a client that downloads a file: it may read nothing for `limit_s` seconds."""

    def __init__(self, loop: AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._timer: TimerHandle | None = None

    def begin(self, scope: HTTPScope, abandon: Callable[[], None]) -> None:
        """More of the answer to this request waits to be sent than the connection takes.

        `abandon` is called if it still does after `limit_s`.
        """
        downloads = scope["method"] == "GET" and scope["path"].startswith(FILES)
        if downloads and self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, abandon)

    def end(self) -> None:
        """The client reads again, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
