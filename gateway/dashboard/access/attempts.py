"""Bounds how often a client may try to sign in with a wrong key."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import OverLimit, Unauthenticated

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

    @contextmanager
    def attempt(self, address: str) -> Iterator[None]:
        """Count an attempt, and take it back unless it ends with Unauthenticated.

        OverLimit if the address has failed too often; attempts under way count as failed.
        """
        self._check(address)
        self._note(address)
        try:
            yield
        except Unauthenticated:
            raise
        except BaseException:
            self._take_back(address)
            raise
        self._take_back(address)

    def _check(self, address: str) -> None:
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

    def _take_back(self, address: str) -> None:
        failures = self._failures.get(address)
        if failures:
            failures.pop()
        if not failures:
            self._failures.pop(address, None)

    def _note(self, address: str) -> None:
        failures = self._failures.setdefault(address, deque(maxlen=MAX_FAILURES))
        failures.append(self._clock())
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
