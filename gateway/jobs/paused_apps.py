"""Apps whose lines wait because a limit refused one."""

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

MIN_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 10.0  # then it is tried again: limits change, and other requests end


class PausedApps:
    """Keeps apps until their next line may be tried."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s: dict[UUID, float] = {}

    def pause(self, app: UUID, wait_s: float) -> None:
        """Try no line of this app for as long as it would be refused, at most `MAX_PAUSE_S`."""
        self._until_s[app] = self._clock() + min(max(wait_s, MIN_PAUSE_S), MAX_PAUSE_S)

    def now(self) -> frozenset[UUID]:
        """The apps that are paused."""
        now_s = self._clock()
        self._until_s = {app: until for app, until in self._until_s.items() if until > now_s}
        return frozenset(self._until_s)
