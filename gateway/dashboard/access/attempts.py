"""Bounds how often a client may try to sign in with a wrong key."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from gateway.errors import OverLimit

MAX_FAILURES: Final = 10  # of an address within `WINDOW_S`
WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 10_000


class SignInAttempts:
    """Failed attempts of the last minute, by address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def check(self, address: str) -> None:
        """OverLimit if the address has failed too often."""
        failures = self._failures.get(address)
        if failures is None:
            return
        now_s = self._clock()
        while failures and failures[0] <= now_s - WINDOW_S:
            failures.popleft()
        if len(failures) >= MAX_FAILURES:
            wait_s = failures[0] + WINDOW_S - now_s
            raise OverLimit(
                f"too many wrong keys from this address; try again in {wait_s:.0f} s",
                retry_after_s=wait_s,
            )

    def failed(self, address: str) -> None:
        """Note an attempt with a wrong key."""
        failures = self._failures.setdefault(address, deque(maxlen=MAX_FAILURES))
        failures.append(self._clock())
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
