"""Renders what viewers look at about once a second, each view once for all that look at it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Final, Protocol

import structlog
from msgspec import Struct

from gateway.dashboard.access.sessions import Session
from gateway.errors import DatabaseLost, LmaasError, OverLimit

INTERVAL_S: Final = 1.0
MAX_CORE_SHARE: Final = 0.01  # where rendering takes longer, it comes less often
MAX_VIEWERS: Final = 64
MAX_OF_SESSION: Final = 8
MAX_OF_KEY: Final = 16  # in all sessions with it
CHECK_S: Final = 30.0  # between two checks of a viewer's key

log = structlog.get_logger()


class View(Hashable, Protocol):
    """What a viewer looks at; equal views are rendered once."""

    def render(self) -> str:
        """The view's present content, as HTML."""


class _Follower(Struct, eq=False):
    """A viewer: the newest content that it has not been sent."""

    view: View
    due: asyncio.Event
    secret: str
    content: bytes | None = None
    ended: bool = False


class LiveBoard:
    """Sends views to their followers; `stopping` returns whether the gateway stops."""

    def __init__(
        self,
        stopping: Callable[[], bool],
        *,
        interval_s: float = INTERVAL_S,
        max_viewers: int = MAX_VIEWERS,
        check_s: float = CHECK_S,
    ) -> None:
        self._stopping = stopping
        self._shortest_s = interval_s
        self.interval_s = interval_s
        self._max_viewers = max_viewers
        self._check_s = check_s
        self._followers: set[_Follower] = set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._followers)

    def check_room(self, session: Session) -> None:
        """OverLimit if there are too many viewers."""
        of_key = sum(follower.secret == session.secret for follower in self._followers)
        full = len(self._followers) >= self._max_viewers
        if full or session.streams >= MAX_OF_SESSION or of_key >= MAX_OF_KEY:
            raise OverLimit("too many live views are open; close one", retry_after_s=30.0)

    async def follow(
        self, view: View, session: Session, valid: Callable[[], Awaitable[object]]
    ) -> AsyncGenerator[bytes, None]:
        """Events with the view's content, until the gateway stops, the session ends or the key is
        not valid.

        `valid` raises an LmaasError once it is not; while the database is away, the key counts as
        valid. A slow viewer misses contents.
        """
        follower = _Follower(view, asyncio.Event(), session.secret)
        self._followers.add(follower)
        session.streams += 1
        self._keep_current()
        check_at_s = time.monotonic() + self._check_s
        try:
            while not follower.ended:
                await follower.due.wait()
                follower.due.clear()
                if session.over:
                    break
                content, follower.content = follower.content, None
                if content is not None:
                    yield content
                if time.monotonic() >= check_at_s:
                    with suppress(DatabaseLost):
                        await valid()
                    check_at_s = time.monotonic() + self._check_s
        except LmaasError as error:
            log.info("live_view_ended", reason=error.message)
        finally:
            self._followers.discard(follower)
            session.streams -= 1

    async def close(self) -> None:
        """End all streams."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._end_all()

    def _keep_current(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="live views")

    async def _run(self) -> None:
        while self._followers:
            if self._stopping():
                self._end_all()
                return
            took_s = 0.0
            for view in {follower.view for follower in self._followers}:
                began_s = time.perf_counter()
                self._publish(view)
                took_s += time.perf_counter() - began_s
                await asyncio.sleep(0)  # each view in a turn of the event loop
            self.interval_s = max(self._shortest_s, took_s / MAX_CORE_SHARE)
            await asyncio.sleep(self.interval_s)

    def _publish(self, view: View) -> None:
        try:
            content = encoded(view.render())
        except Exception as error:  # the other views go on
            log.error("view_failed", view=type(view).__name__, exc_info=error)
            content = None
        for follower in self._followers:
            if follower.view == view:
                follower.content = content
                follower.ended = content is None
                follower.due.set()

    def _end_all(self) -> None:
        for follower in self._followers:
            follower.ended = True
            follower.due.set()


def encoded(html: str) -> bytes:
    """HTML as a server-sent event."""
    lines = "\n".join(f"data: {line}" for line in html.splitlines())
    return f"event: view\n{lines}\n\n".encode()
