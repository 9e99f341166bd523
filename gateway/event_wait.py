"""Waits for an event, at most for a time."""

import asyncio
from contextlib import suppress


async def wait_for_event(event: asyncio.Event, within_s: float) -> None:
    """Return once the event is set, or after this time.

    `asyncio.wait_for` of Python 3.11 can lose a cancel that comes together with the event.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
