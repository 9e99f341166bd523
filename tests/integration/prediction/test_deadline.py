"""A deadline is not refused by what history says while the model's prediction is due."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from engine.protocol import EngineInfo
from gateway.errors import DeadlineUnreachable, LimitReached
from gateway.generation.request import GenerationRequest, Message
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.history.record import Record
from gateway.prediction.serving.learned import Learned
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.tenancy.caller import Caller
from tests.integration.prediction.conftest import MODEL
from tests.unit.generation.conftest import DEMO, KV, SchedulerScene
from tests.unit.generation.test_holds import a_limit

APP = UUID(int=1)  # the version predicts answers as long as the inputs, about five tokens
TOKEN_S = 100.0  # of this engine: how long the test machine takes decides nothing
LONG = 400  # tokens of all its earlier answers: 40,000 s
DEADLINE_S = 10_000.0


def request() -> GenerationRequest:
    ids = {"tenant_id": UUID(int=1), "app_id": APP, "api_key_id": UUID(int=3)}
    caller = Caller(tenant="tenant", app="app", instruction=None, **ids)
    return GenerationRequest(
        caller=caller, messages=(Message("user", "brave king sails"),), deadline_s=DEADLINE_S
    )


@pytest.fixture
async def service(
    predictor: LengthPredictor,
    artefact: bytes,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[GenerationService]:
    """A service of an engine that is paused, so that everything is queued."""
    monkeypatch.setattr(predictor, "_interactive", Learned())
    for _ in range(50):
        predictor.observe(a_record(model=MODEL, app_id=APP, generation_tokens=LONG))
    await predictor.activate(uuid4(), artefact)
    scene = SchedulerScene(lambda **_: request(), ChatTokenizer(DEMO))
    info = EngineInfo("epoch", "model", 512, 1000, [4], KV, "cpu", "float32")
    scene.scheduler.events[0].engine_ready(info)
    scene.scheduler.pause_engine()
    policy: Any = scene.loop.policy
    monkeypatch.setattr(
        policy._serving, "estimate", lambda _size, _prompt, tokens: TOKEN_S * tokens
    )
    workers = TextWorkers()
    yield GenerationService("model", ChatTokenizer(DEMO), predictor, scene.scheduler, workers)
    workers.close()


@contextmanager
def stopped(predictor: LengthPredictor) -> Iterator[None]:
    pid = predictor._client.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_short_answer_of_an_app_of_long_ones_is_not_refused(
    service: GenerationService,
) -> None:
    [state] = await service.start(request())
    assert (state.error, state.prediction.source) == (None, "model")
    assert state.prediction.upper * TOKEN_S < DEADLINE_S
    assert state.queued_request is not None
    assert not state.queued_request.provisional
    service.cancel(state)


async def test_without_the_model_within_its_budget_history_decides(
    service: GenerationService, predictor: LengthPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_budget_s", 0.05)
    with stopped(predictor), pytest.raises(DeadlineUnreachable):
        await service.start(request())
    assert service.scheduler.load.total.requests == 0


async def test_a_limit_does_not_refuse_by_history_what_the_model_predicts_to_fit(
    service: GenerationService,
) -> None:
    limit = a_limit(value=LONG / 2)
    service.scheduler.holds.ledger.use([limit])
    [state] = await service.start(replace(request(), deadline_s=None))
    assert state.prediction.source == "model"
    assert state.hold is not None
    assert state.hold.answer_tokens < LONG / 2
    service.cancel(state)
    assert service.scheduler.holds.ledger.open_holds == 0


async def test_a_limit_that_the_model_predicts_not_to_fit_refuses(
    service: GenerationService,
) -> None:
    service.scheduler.holds.ledger.use([a_limit(value=3)])
    with pytest.raises(LimitReached):
        await service.start(replace(request(), deadline_s=None))
    assert service.scheduler.load.total.requests == 0
