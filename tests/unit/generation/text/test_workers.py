"""Work on texts: on the event loop if it is short, else in threads, tenants by turns."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gateway.errors import InvalidRequest, TenantQueueFull, Unavailable
from gateway.generation.text.work_queue import WorkBounds
from gateway.generation.text.workers import SHORT_US, TURN_US, TextWorkers
from tests.conftest import PATIENCE_S

LONG_US = SHORT_US + 1


@pytest.fixture
async def workers() -> AsyncIterator[TextWorkers]:
    made = TextWorkers(threads=1, wait_s=PATIENCE_S)
    yield made
    made.close()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What occupied threads wait for; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


def occupied(workers: TextWorkers, released: threading.Event) -> asyncio.Task[bool]:
    """Occupies the one thread until the event is set."""
    return asyncio.create_task(workers.run("other", LONG_US, lambda: released.wait(PATIENCE_S)))


async def test_short_work_runs_on_the_event_loop_and_long_work_does_not(
    workers: TextWorkers,
) -> None:
    assert await workers.run("a", SHORT_US, threading.get_ident) == threading.get_ident()
    assert await workers.run("a", LONG_US, threading.get_ident) != threading.get_ident()
    assert workers.counts == {"at_once": 1, "thread": 1, "given_up": 0}


async def test_short_work_in_one_turn_of_the_event_loop_is_bounded(workers: TextWorkers) -> None:
    fitting = TURN_US // SHORT_US
    done = await asyncio.gather(
        *(workers.run("a", SHORT_US, threading.get_ident) for _ in range(2 * fitting))
    )
    assert done.count(threading.get_ident()) == fitting
    await asyncio.sleep(0)
    assert await workers.run("a", SHORT_US, threading.get_ident) == threading.get_ident()


async def test_a_tenants_work_waits_for_one_job_of_another_tenant(
    workers: TextWorkers, released: threading.Event
) -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    first = occupied(workers, released)
    await asyncio.sleep(0)
    flood = [asyncio.create_task(workers.run("a", LONG_US, noting("a"))) for _ in range(50)]
    await asyncio.sleep(0)
    single = asyncio.create_task(workers.run("b", LONG_US, noting("b")))
    await asyncio.sleep(0)
    released.set()
    await asyncio.gather(first, *flood, single)
    assert order == ["a", "b", *["a"] * 49]


async def test_work_that_waits_too_long_is_given_up_and_never_runs(
    released: threading.Event,
) -> None:
    workers = TextWorkers(threads=1, wait_s=0.05)
    ran: list[int] = []
    first = occupied(workers, released)
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too busy"):
        await workers.run("a", LONG_US, lambda: ran.append(1))
    kept = asyncio.create_task(workers.finish("a", LONG_US, lambda: "kept"))
    with pytest.raises(Unavailable, match="too busy"):
        await first
    released.set()
    assert await kept == "kept"
    assert not ran
    assert workers.counts["given_up"] == 2
    workers.close()


async def test_work_of_a_client_that_left_is_dropped(
    workers: TextWorkers, released: threading.Event
) -> None:
    ran: list[int] = []
    first = occupied(workers, released)
    await asyncio.sleep(0)
    left = asyncio.create_task(workers.run("a", LONG_US, lambda: ran.append(1)))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    released.set()
    assert await first
    assert await workers.run("a", LONG_US, lambda: 2) == 2
    assert not ran


async def test_full_queue_refuses_requests_but_no_answer(released: threading.Event) -> None:
    workers = TextWorkers(threads=1, wait_s=PATIENCE_S, bounds=WorkBounds(tenant_jobs=1))
    first = occupied(workers, released)
    await asyncio.sleep(0)
    second = asyncio.create_task(workers.run("a", LONG_US, lambda: 2))
    await asyncio.sleep(0)
    with pytest.raises(TenantQueueFull):
        await workers.run("a", LONG_US, lambda: 3)
    answer = asyncio.create_task(workers.finish("a", LONG_US, lambda: 4))
    await asyncio.sleep(0)
    released.set()
    assert await asyncio.gather(first, second, answer) == [True, 2, 4]
    workers.close()


async def test_error_of_the_work_reaches_its_caller(workers: TextWorkers) -> None:
    def fail() -> None:
        raise InvalidRequest("wrong")

    for work_us in (1, LONG_US):
        with pytest.raises(InvalidRequest, match="wrong"):
            await workers.run("a", work_us, fail)
