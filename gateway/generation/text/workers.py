"""Keeps work on clients' texts off the event loop: short work runs at once, long work in threads.

Threads suffice, a process is not needed: the tokenizer's batch calls run without the interpreter
lock, and Python code gives the lock up every millisecond (`gateway.cli.serve`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import Struct

from gateway.errors import Unavailable
from gateway.generation.text.work_queue import WorkBounds, WorkQueue

T = TypeVar("T")

THREADS: Final = 2
SHORT_US: Final = 2_000  # estimated CPU time of work that runs on the event loop
TURN_US: Final = 4_000  # the same, of all such work in one turn of the event loop
WAIT_S: Final = 10.0  # for a thread to be free and to finish


class _Job(Struct, eq=False):
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class TextWorkers:
    """Runs work for tenants, each of which waits for its own turn (`WorkQueue`).

    Used by one event loop.
    """

    def __init__(
        self,
        *,
        threads: int = THREADS,
        bounds: WorkBounds | None = None,
        short_us: int = SHORT_US,
        wait_s: float = WAIT_S,
        what: str = "long texts",
    ) -> None:
        """`what` is worked on, in messages."""
        self.counts = dict.fromkeys(("at_once", "thread", "given_up"), 0)  # by where work ran
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="text")
        self.queue: WorkQueue[_Job] = WorkQueue(bounds or WorkBounds(), threads, what)
        self._what = what
        self._threads = self._idle = threads
        self._short_us = short_us
        self._wait_s = wait_s
        self._spent_us = 0  # in this turn of the event loop

    @property
    def threads_busy(self) -> int:
        """Number of threads that work."""
        return self._threads - self._idle

    async def run(self, tenant: str, work_us: int, work: Callable[[], T]) -> T:
        """The result of `work`, which takes at most about `work_us` of CPU time.

        TenantQueueFull or QueueFull if too much waits, Unavailable if it is not done in time. Work
        that has begun runs to its end even if its caller gave up.
        """
        if self._fits_this_turn(work_us):
            return work()
        self.queue.check(tenant, work_us)
        try:
            async with asyncio.timeout(self._wait_s) as limit:
                return await self._threaded(tenant, work_us, work)
        except TimeoutError as error:
            if not limit.expired():
                raise
            self.counts["given_up"] += 1
            raise Unavailable(
                f"the gateway is too busy to process {self._what}; try again"
            ) from error

    async def finish(self, tenant: str, work_us: int, work: Callable[[], T]) -> T:
        """The same for what has been generated: takes its turn, but is not refused or given up."""
        if self._fits_this_turn(work_us):
            return work()
        return await self._threaded(tenant, work_us, work)

    def close(self) -> None:
        """End the threads once their work is done."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _threaded(self, tenant: str, work_us: int, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        number = self.queue.push(tenant, work_us, _Job(work, done))
        try:
            self._start(loop)
            return await done
        finally:
            self.queue.discard(number)

    def _fits_this_turn(self, work_us: int) -> bool:
        """Whether the work may run on the event loop, between other callbacks of its turn."""
        if work_us > self._short_us or self._spent_us + work_us > TURN_US:
            return False
        if not self._spent_us:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._spent_us += max(work_us, 1)
        self.counts["at_once"] += 1
        return True

    def _end_turn(self) -> None:
        self._spent_us = 0

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give queued jobs to idle threads."""
        while self._idle and len(self.queue):
            self._idle -= 1
            self.counts["thread"] += 1
            job = self.queue.pop()
            running = loop.run_in_executor(self._executor, job.work)
            running.add_done_callback(partial(self._finish, loop, job))

    def _finish(
        self, loop: asyncio.AbstractEventLoop, job: _Job, running: asyncio.Future[Any]
    ) -> None:
        self._idle += 1
        self._start(loop)
        if job.done.done():  # its caller gave up
            running.exception()
        elif error := running.exception():
            job.done.set_exception(error)
        else:
            job.done.set_result(running.result())
