"""Long prompts while every thread is busy."""

import asyncio
import threading
from collections.abc import Callable
from typing import ClassVar

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from engine.protocol import EngineInfo
from gateway.errors import Unavailable
from gateway.generation import service as service_module
from gateway.generation.request import GenerationRequest
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.prediction.serving.predictor import LengthPredictor
from tests.unit.generation.conftest import DEMO, KV, SchedulerScene

MAX_THREADS = 32  # of asyncio's executor, whatever the machine


def a_service(
    a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer
) -> GenerationService:
    """A service whose engine is there."""
    sessions = async_sessionmaker[AsyncSession]()
    predictor = LengthPredictor(model="model", model_hash="h", budget_s=1.0, sessions=sessions)
    scene = SchedulerScene(a_request, tokenizer)
    scene.scheduler.events.engine_ready(
        EngineInfo("epoch", "model", 512, 1000, [4], KV, "cpu", "float32")
    )
    return GenerationService("model", tokenizer, predictor, scene.scheduler)


class RecordingTokenizer(ChatTokenizer):
    """Records the threads in which it encodes."""

    threads: ClassVar[set[threading.Thread]] = set()

    def encode(self, text: str) -> list[int]:
        self.threads.add(threading.current_thread())
        return super().encode(text)


async def test_long_user_input_is_never_encoded_on_the_event_loop(
    a_request: Callable[..., GenerationRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MIN_THREADED_CHARACTERS", 1)
    service = a_service(a_request, RecordingTokenizer(DEMO))
    assert (await service.prepare(a_request())).user_input_tokens
    assert RecordingTokenizer.threads
    assert threading.main_thread() not in RecordingTokenizer.threads


async def test_long_prompt_is_unavailable_in_time_while_all_threads_are_busy(
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "ENCODE_S", 0.05)
    monkeypatch.setattr(service_module, "MIN_THREADED_CHARACTERS", 1)
    service = a_service(a_request, tokenizer)
    released = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(released.wait)) for _ in range(MAX_THREADS)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(Unavailable, match="too busy"):
            await service.prepare(a_request())
    finally:
        released.set()
        await asyncio.gather(*busy)
    monkeypatch.setattr(service_module, "ENCODE_S", 600.0)
    assert (await service.prepare(a_request())).prompt
