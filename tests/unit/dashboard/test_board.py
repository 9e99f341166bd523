"""Live views: rendered once for all, bounded, and ended with the gateway or the key."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.dashboard.access.sessions import Session
from gateway.dashboard.live.board import (
    MAX_CORE_SHARE,
    MAX_OF_KEY,
    MAX_OF_SESSION,
    LiveBoard,
    encoded,
)
from gateway.errors import DatabaseLost, LmaasError, OverLimit, Unauthenticated
from tests.conftest import PATIENCE_S


class Counting:
    """A view that counts how often it is rendered."""

    def __init__(self) -> None:
        self.rendered = 0

    def render(self) -> str:
        self.rendered += 1
        return f"content {self.rendered}"


class Breaking:
    def render(self) -> str:
        raise ZeroDivisionError


async def valid() -> None:
    pass


def a_session() -> Session:
    return Session("key", "csrf", 1e12)


async def first(events: AsyncGenerator[bytes, None]) -> bytes:
    return await asyncio.wait_for(anext(events), PATIENCE_S)


async def test_a_view_is_rendered_once_for_all_that_look_at_it() -> None:
    board, view = LiveBoard(lambda: False, interval_s=PATIENCE_S), Counting()
    streams = [board.follow(view, a_session(), valid) for _ in range(5)]
    contents = await asyncio.gather(*map(first, streams))
    assert set(contents) == {encoded("content 1")}
    assert view.rendered == 1
    for stream in streams:
        await stream.aclose()
    assert len(board) == 0
    await board.close()


async def test_streams_end_when_the_gateway_stops() -> None:
    stopping = False
    board = LiveBoard(lambda: stopping, interval_s=0.001)
    stream = board.follow(Counting(), a_session(), valid)
    assert await first(stream)
    stopping = True
    async with asyncio.timeout(PATIENCE_S):
        async for _ in stream:
            pass
    await board.close()


async def test_a_view_that_fails_ends_its_streams_and_no_others() -> None:
    board, view = LiveBoard(lambda: False, interval_s=0.001), Counting()
    good, bad = board.follow(view, a_session(), valid), board.follow(Breaking(), a_session(), valid)
    assert await first(good)
    async with asyncio.timeout(PATIENCE_S):
        assert [content async for content in bad] == []
    assert await first(good)
    await good.aclose()
    await board.close()


async def test_a_view_ends_with_its_key_and_not_with_the_database() -> None:
    board = LiveBoard(lambda: False, interval_s=0.001, check_s=0.0)
    answers: list[LmaasError] = [
        DatabaseLost("away"),
        DatabaseLost("away"),
        Unauthenticated("gone"),
    ]

    async def valid_for_a_while() -> None:
        raise answers.pop(0)

    async with asyncio.timeout(PATIENCE_S):
        seen = [_ async for _ in board.follow(Counting(), a_session(), valid_for_a_while)]
    assert len(seen) >= 3
    assert answers == []
    await board.close()


async def test_a_view_ends_with_its_session() -> None:
    board, session = LiveBoard(lambda: False, interval_s=0.001), a_session()
    stream = board.follow(Counting(), session, valid)
    assert await first(stream)
    session.ended = True
    async with asyncio.timeout(PATIENCE_S):
        assert len([_ async for _ in stream]) == 0
    await board.close()


async def test_viewers_with_one_key_leave_room_for_others() -> None:
    board = LiveBoard(lambda: False, interval_s=0.001)
    streams = [board.follow(Counting(), a_session(), valid) for _ in range(MAX_OF_KEY)]
    await asyncio.gather(*map(first, streams))
    with pytest.raises(OverLimit):
        board.check_room(a_session())
    board.check_room(Session("another key", "csrf", 1e12))
    for stream in streams:
        await stream.aclose()
    await board.close()


async def test_viewers_are_bounded_in_all_and_of_a_session() -> None:
    board, session = LiveBoard(lambda: False, interval_s=0.001, max_viewers=3), a_session()
    streams = [board.follow(Counting(), a_session(), valid) for _ in range(3)]
    await asyncio.gather(*map(first, streams))
    with pytest.raises(OverLimit):
        board.check_room(session)
    await streams[0].aclose()
    board.check_room(session)
    session.streams = MAX_OF_SESSION
    with pytest.raises(OverLimit):
        board.check_room(session)
    for stream in streams:
        await stream.aclose()
    await board.close()


async def test_what_takes_long_to_render_is_rendered_less_often() -> None:
    class Slow(Counting):
        def render(self) -> str:
            total = sum(range(200_000))
            return f"{super().render()} {total}"

    board = LiveBoard(lambda: False, interval_s=1e-6)
    stream = board.follow(Slow(), a_session(), valid)
    await first(stream)
    await asyncio.sleep(0)
    assert board.interval_s > 1e-6 / MAX_CORE_SHARE
    await stream.aclose()
    await board.close()


def test_html_of_several_lines_is_one_event() -> None:
    assert encoded("<p>\n</p>") == b"event: view\ndata: <p>\ndata: </p>\n\n"
