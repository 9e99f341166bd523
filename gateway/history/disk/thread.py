"""A thread for work on files: a disk that stalls holds up no event loop."""

import asyncio
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeAlias, TypeVar

from msgspec import Struct

STALL_S: Final = 1.0  # a call that takes longer shows that the disk stalls

T = TypeVar("T")
_Call: TypeAlias = tuple[Callable[[], Any], asyncio.Future[Any]]


class _Clock(Struct):
    """When the call that runs began; None while none does."""

    began_s: float | None = None


class DiskThread:
    """Runs calls in the order in which they were given, one at a time.

    A daemon: the process can end while the disk hangs. It ends with this object.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._clock = _Clock()
        self.close = weakref.finalize(self, self._calls.put, None)
        """End the thread after the calls that it was given. It is not waited for."""
        Thread(target=_work, args=(self._calls, self._clock), name=name, daemon=True).start()

    @property
    def stalls(self) -> bool:
        """Whether a call has been running for longer than `STALL_S`."""
        began_s = self._clock.began_s
        return began_s is not None and time.monotonic() - began_s > STALL_S

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """The result of a call, which runs after all those before it.

        It runs also if what waited for it does so no more.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((call, result))
        return result


def _work(calls: "SimpleQueue[_Call | None]", clock: _Clock) -> None:
    """Run calls until the end of the queue."""
    while (given := calls.get()) is not None:
        call, result = given
        found: Any = None
        error: Exception | None = None
        clock.began_s = time.monotonic()
        try:
            found = call()
        except Exception as raised:  # noqa: BLE001  who waits for the call raises it
            error = raised
        clock.began_s = None
        with suppress(RuntimeError):  # the event loop has ended
            result.get_loop().call_soon_threadsafe(_settle, result, found, error)
        del given, call, result, found, error  # what they hold need not wait for the next one


def _settle(result: asyncio.Future[Any], found: object, error: Exception | None) -> None:
    if result.done():  # cancelled: nothing waits for it
        return
    if error is None:
        result.set_result(found)
    else:
        result.set_exception(error)
