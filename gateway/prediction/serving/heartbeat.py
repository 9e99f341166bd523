"""Notices a predictor process that hangs: it neither answers nor ends."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

BEAT_S: Final = 3.0
MAX_MISSED_BEATS: Final = 10  # half a minute: a library that is being loaded blocks for seconds
MAX_START_BEATS: Final = 200  # ten minutes: libraries come from a cold disk of a busy machine


class Heartbeat:
    """Asks a process for a sign of life at each beat, and counts those without one.

    It counts beats rather than seconds, so a gateway that was busy or suspended itself reads the
    replies that have come meanwhile before it misses more of them.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._missed = 0
        self._started = False
        self._heard_s = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether the process owes more than one reply."""
        return self._missed > 1

    @property
    def silent_s(self) -> float:
        """For how long nothing has been heard."""
        return time.monotonic() - self._heard_s

    def heard(self) -> None:
        """The process has replied."""
        self._started = True
        self._missed = 0
        self._heard_s = time.monotonic()

    async def lost(self) -> None:
        """Return once too many beats in a row had no reply; the first reply may take longer."""
        while self._missed < (MAX_MISSED_BEATS if self._started else MAX_START_BEATS):
            self._ask()
            await asyncio.sleep(BEAT_S)
            self._missed += 1
