"""Requests to a service whose queue is full."""

from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from engine.protocol import EngineInfo
from gateway.errors import QueueFull, TenantQueueFull
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


@pytest.fixture
async def service(
    a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer
) -> AsyncIterator[GenerationService]:
    """A service of a paused engine: everything is queued."""
    predictor = LengthPredictor(
        model="m", model_hash="h", budget_s=1.0, sessions=async_sessionmaker[AsyncSession]()
    )
    bounds = QueueBounds(requests=5, tenant_requests=3)
    scene = SchedulerScene(a_request, tokenizer, bounds=bounds)
    scene.scheduler.events[0].engine_ready(
        EngineInfo("epoch", "model", 512, 1000, [4], KV, "cpu", "float32")
    )
    scene.scheduler.pause_engine()
    workers = TextWorkers()
    yield GenerationService("model", CountingTokenizer(DEMO), predictor, scene.scheduler, workers)
    workers.close()


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
