"""Requests to a service whose queue is full."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from engine.protocol import EngineInfo
from gateway.errors import QueueFull, RequestCancelled, ShuttingDown, TenantQueueFull
from gateway.generation.queue.load import QueueBounds, QueueLoad
from gateway.generation.request import GenerationRequest
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.prediction.serving.predictor import LengthPredictor
from tests.unit.generation.conftest import DEMO, KV, SchedulerScene


class CountingTokenizer(ChatTokenizer):
    """Counts the prompts that it encodes."""

    encoded = 0

    def encode_chat(self, *arguments: object, **options: object) -> list[int]:
        self.encoded += 1
        return super().encode_chat(*arguments, **options)  # type: ignore[arg-type]


Start = Callable[[QueueBounds], GenerationService]


@pytest.fixture
async def start(
    a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer
) -> AsyncIterator[Start]:
    """Starts a service of a paused engine: everything is queued."""
    workers = TextWorkers()

    def start(bounds: QueueBounds) -> GenerationService:
        predictor = LengthPredictor(
            model="m", model_hash="h", budget_s=1.0, sessions=async_sessionmaker[AsyncSession]()
        )
        scene = SchedulerScene(a_request, tokenizer, bounds=bounds)
        scene.scheduler.events[0].engine_ready(
            EngineInfo("epoch", "model", 512, 1000, [4], KV, "cpu", "float32")
        )
        scene.scheduler.pause_engine()
        return GenerationService(
            "model", CountingTokenizer(DEMO), predictor, scene.scheduler, workers
        )

    yield start
    workers.close()


@pytest.fixture
async def service(start: Start) -> GenerationService:
    return start(QueueBounds(requests=5, tenant_requests=3))


async def test_a_tenants_bound_refuses_its_request_as_a_whole_and_no_other_tenants(
    service: GenerationService, a_request: Callable[..., GenerationRequest]
) -> None:
    load = service.scheduler.load
    await service.start(a_request(choices=2))
    with pytest.raises(TenantQueueFull, match="2 answers"):
        await service.start(a_request(choices=2))
    assert load.total.requests == 2
    await service.start(a_request(choices=2, tenant=2))
    with pytest.raises(QueueFull, match="4 answers"):
        await service.start(a_request(choices=2, tenant=3))
    assert load.total.requests == 4


async def test_a_request_to_a_full_queue_is_refused_before_its_text_is_encoded(
    service: GenerationService, a_request: Callable[..., GenerationRequest]
) -> None:
    await service.start(a_request(choices=3))
    tokenizer = service._tokenizer
    assert isinstance(tokenizer, CountingTokenizer)
    encoded = tokenizer.encoded
    with pytest.raises(TenantQueueFull):
        await service.start(a_request())
    assert tokenizer.encoded == encoded


async def test_a_cancelled_request_makes_room_in_the_queue(
    service: GenerationService, a_request: Callable[..., GenerationRequest]
) -> None:
    states = await service.start(a_request(choices=3))
    service.cancel(states[0])
    await service.start(a_request())
    assert isinstance(service.scheduler.load, QueueLoad)
    service.scheduler.load.check_counts()


async def growth(service: GenerationService, starting: asyncio.Task[Any]) -> list[int]:
    """How many choices were queued in each turn of the event loop until the request has started."""
    queued = [0]
    while not starting.done():
        await asyncio.sleep(0)
        queued.append(len(service.scheduler.table.waiting))
    return [after - before for before, after in pairwise(queued) if after != before]


async def test_many_choices_are_queued_some_in_each_turn_of_the_event_loop(
    start: Start, a_request: Callable[..., GenerationRequest]
) -> None:
    service = start(QueueBounds())
    starting = asyncio.create_task(service.start(a_request(choices=20)))
    assert await growth(service, starting) == [8, 8, 4]
    assert [state.choice for state in starting.result()] == list(range(20))
    service.scheduler.load.check_counts()


async def test_room_is_kept_for_choices_that_are_still_to_be_queued(
    start: Start, a_request: Callable[..., GenerationRequest]
) -> None:
    service = start(QueueBounds(tenant_requests=30))
    both = (service.start(a_request(choices=20)) for _ in range(2))
    kinds = {type(each) for each in await asyncio.gather(*both, return_exceptions=True)}
    assert kinds == {list, TenantQueueFull}
    assert service.scheduler.load.total.requests == 20
    service.scheduler.load.check_counts()


@pytest.mark.parametrize("kind", ["client", "gateway", "operator"])
async def test_request_that_is_stopped_amid_its_start_leaves_no_choice(
    start: Start, a_request: Callable[..., GenerationRequest], kind: str
) -> None:
    service = start(QueueBounds())
    waiting = service.scheduler.table.waiting
    starting = asyncio.create_task(service.start(a_request(choices=20)))
    while not waiting:
        await asyncio.sleep(0)
    assert len(waiting) == 8
    if kind == "client":
        starting.cancel()
    elif kind == "gateway":
        service.stop()
    else:
        service.scheduler.cancel_request(next(iter(waiting.values())).id, by="ada")
    errors = {
        "client": asyncio.CancelledError,
        "gateway": ShuttingDown,
        "operator": RequestCancelled,
    }
    with pytest.raises(errors[kind]):
        await starting
    assert not waiting
    service.scheduler.load.check_counts()
