"""The queue of work on long texts: tenants take turns, and what waits is bounded."""

from collections import OrderedDict
from itertools import count
from typing import Final, Generic, TypeVar

from msgspec import Struct

from gateway.errors import QueueFull, TenantQueueFull

TENANT_WORK_US: Final = 10_000_000
TENANT_JOBS: Final = 1_024
TENANTS: Final = 4  # full tenant queues that fit the queue

Job = TypeVar("Job")


class WorkBounds(Struct, frozen=True, kw_only=True):
    """The most that may wait, by tenant and in total: estimated CPU microseconds, and jobs."""

    tenant_us: int = TENANT_WORK_US
    tenant_jobs: int = TENANT_JOBS
    total_us: int = TENANTS * TENANT_WORK_US
    total_jobs: int = TENANTS * TENANT_JOBS


class _Waiting(Struct, Generic[Job]):
    """A tenant's jobs in order of arrival, by number, and their work."""

    jobs: dict[int, tuple[int, Job]]
    work_us: int = 0


class WorkQueue(Generic[Job]):
    """Jobs by tenant. Each `pop` is the next tenant's turn, and takes its oldest job.

    A tenant that had no job goes behind all that have one. Every call takes O(1).
    """

    def __init__(self, bounds: WorkBounds, workers: int, what: str = "long texts") -> None:
        """`workers` jobs run at the same time: the refusals' `Retry-After` follows from it.

        `what` waits, in their messages.
        """
        self._bounds = bounds
        self._what = what
        self._workers = workers
        self._tenants: OrderedDict[str, _Waiting[Job]] = OrderedDict()  # the first has the turn
        self._numbers = count()
        self._owners: dict[int, str] = {}
        self.work_us = 0

    def __len__(self) -> int:
        return len(self._owners)

    def check(self, tenant: str, work_us: int) -> None:
        """TenantQueueFull or QueueFull if one more job of this much work exceeds a bound.

        A job that exceeds a bound of work by itself is accepted while no other waits.
        """
        bounds, own = self._bounds, self._tenants.get(tenant, _Waiting[Job]({}))
        if _over(len(own.jobs), own.work_us, work_us, bounds.tenant_jobs, bounds.tenant_us):
            raise TenantQueueFull(
                f"{len(own.jobs)} {self._what} of this tenant wait to be processed; send fewer at "
                "once",
                retry_after_s=self._wait_s(own.work_us),
            )
        if _over(len(self), self.work_us, work_us, bounds.total_jobs, bounds.total_us):
            raise QueueFull(
                f"{len(self)} {self._what} wait to be processed; try again",
                retry_after_s=self._wait_s(self.work_us),
            )

    def push(self, tenant: str, work_us: int, job: Job) -> int:
        """Queue a job of this much work, whatever the bounds; returns its number."""
        number = next(self._numbers)
        waiting = self._tenants.setdefault(tenant, _Waiting({}))
        waiting.jobs[number] = work_us, job
        waiting.work_us += work_us
        self.work_us += work_us
        self._owners[number] = tenant
        return number

    def pop(self) -> Job:
        """Remove and return the next job. KeyError if none waits."""
        if not self._tenants:
            raise KeyError("no job waits")
        tenant, waiting = next(iter(self._tenants.items()))
        self._tenants.move_to_end(tenant)
        number, (_, job) = next(iter(waiting.jobs.items()))
        self.discard(number)
        return job

    def discard(self, number: int) -> None:
        """Remove a job; does nothing if it no longer waits."""
        tenant = self._owners.pop(number, None)
        if tenant is None:
            return
        waiting = self._tenants[tenant]
        work_us, _ = waiting.jobs.pop(number)
        waiting.work_us -= work_us
        self.work_us -= work_us
        if not waiting.jobs:
            del self._tenants[tenant]

    def _wait_s(self, work_us: int) -> float:
        """Seconds that the workers take for this work, at least 1."""
        return max(1.0, work_us / 1e6 / self._workers)

    def check_counts(self) -> None:
        """AssertionError if a count disagrees with the jobs; for tests."""
        owned = {number: name for name, each in self._tenants.items() for number in each.jobs}
        assert owned == self._owners
        for waiting in self._tenants.values():
            assert waiting.jobs
            assert waiting.work_us == sum(work_us for work_us, _ in waiting.jobs.values())
        assert self.work_us == sum(waiting.work_us for waiting in self._tenants.values())


def _over(jobs: int, queued_us: int, more_us: int, most_jobs: int, most_us: int) -> bool:
    """Whether one more job exceeds a bound."""
    return jobs >= most_jobs or (jobs > 0 and queued_us + more_us > most_us)
