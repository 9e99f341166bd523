"""A live view as a stream of server-sent events."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Final

from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewers
from gateway.dashboard.live.board import LiveBoard, View
from gateway.dashboard.view.headers import HEADERS

STREAM_HEADERS: Final = {**HEADERS, "cache-control": "no-cache", "x-accel-buffering": "no"}


def live_stream(view: View, board: LiveBoard, session: Session, viewers: Viewers) -> Stream:
    """The view's content whenever it is rendered. OverLimit if too many viewers look."""
    board.check_room(session)
    valid = partial(viewers.viewer, session.secret, session.app_secret)
    events = board.follow(view, session, valid)
    return Stream(
        events,
        background=BackgroundTask(_close, events),
        media_type="text/event-stream",
        headers=STREAM_HEADERS,
    )


async def _close(events: AsyncGenerator[bytes, None]) -> None:
    """Close a stream whose client disconnected during a write."""
    await events.aclose()
