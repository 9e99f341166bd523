"""The scheduler with a real engine in lock step whose batches run out of memory."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from engine.protocol import Sampling
from gateway.engines.colocated import ColocatedEngine
from gateway.engines.supervisor import EngineSupervisor
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.scheduling.policy import Options, PolicyName
from tests.conftest import PATIENCE_S
from tests.supervised_engine import supervised_engine
from tests.unit.generation.conftest import SchedulerScene, a_request, tokenizer

fixtures = (a_request, tokenizer)
OPTIONS = Options(fixed_batch=8)
MAX_TOKENS = 60


@pytest.fixture(scope="module")
async def supervisor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineSupervisor]:
    """An engine of 16 pages of 16 tokens: three sequences at their maximum length."""
    folder = tmp_path_factory.mktemp("engine")
    async with supervised_engine(folder, LMAAS_KV_TOKENS="256") as supervisor:
        yield supervisor


class LiveScene(SchedulerScene):
    """A scheduler connected to the engine; ends of answers are predicted far too early."""

    def requests(self) -> list[RequestState]:
        """The same eight requests at each call: their samples depend on seed and position alone."""
        stop_ids = self.scheduler.engine.served.stop_ids
        return [
            self.request(
                length=4.0,
                max_tokens=MAX_TOKENS,
                prompt=[5 + n] * (9 + n),
                seed=n,
                sampling=Sampling(temperature=1.0, logit_bias=dict.fromkeys(stop_ids, -100.0)),
            )
            for n in range(8)
        ]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.002)

    async def answers(self, requests: list[RequestState]) -> list[list[int]]:
        """The tokens of these requests once all have ended."""
        async with asyncio.timeout(PATIENCE_S):
            for request in requests:
                await request.wait_for_end()
        assert [request.error for request in requests] == [None] * len(requests)
        return [request.tokens for request in requests]

    @property
    def splits(self) -> float:
        return self.scheduler.metrics.registry.get_sample_value("lmaas_batch_splits_total") or 0.0


@asynccontextmanager
async def live(
    supervisor: EngineSupervisor,
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
    policy: PolicyName,
) -> AsyncIterator[LiveScene]:
    """A scheduler under this policy; at the end no page of the engine is in use."""
    client = ColocatedEngine(supervisor.socket)
    scene = LiveScene(a_request, tokenizer, client=client)
    scene.scheduler.use_policy(policy, OPTIONS)
    await scene.scheduler.start()
    await scene.scheduler.engine.ready()
    yield scene
    assert (scene.waiting, scene.running) == (0, 0)
    scene.scheduler.policy.check()
    transport = httpx.AsyncHTTPTransport(uds=supervisor.socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
        assert (await http.get("/audit")).json() == {"wrong": None}
    await client.close()


@pytest.fixture
async def unsplit(
    supervisor: EngineSupervisor,
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
) -> list[list[int]]:
    """The answers under continuous batching, where no batch is split."""
    async with live(supervisor, a_request, tokenizer, "lmaas") as scene:
        requests = scene.requests()
        await scene.enqueue(*requests)
        return await scene.answers(requests)


@pytest.mark.parametrize("policy", ["magnus", "fixed"])
async def test_split_batches_give_the_same_answers(
    policy: PolicyName,
    supervisor: EngineSupervisor,
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
    unsplit: list[list[int]],
) -> None:
    async with live(supervisor, a_request, tokenizer, policy) as scene:
        requests = scene.requests()
        await scene.enqueue(*requests)
        assert await scene.answers(requests) == unsplit
        assert scene.splits >= 3  # 8, and both halves of 4
        assert sum(request.preemptions for request in requests) >= 16


async def test_split_survives_the_engine_cancels_and_a_change_of_policy(
    supervisor: EngineSupervisor,
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
    unsplit: list[list[int]],
) -> None:
    async with live(supervisor, a_request, tokenizer, "fixed") as scene:
        requests = scene.requests()
        await scene.enqueue(*requests)
        await scene.until(lambda: any(request.queued_again for request in requests))
        gone = next(request for request in requests if request.queued_again)
        scene.scheduler.cancel(gone)
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        before = scene.splits
        await scene.until(lambda: scene.splits > before)
        scene.scheduler.use_policy("lmaas")
        answers = await scene.answers(requests)
        for request, answer, expected in zip(requests, answers, unsplit, strict=True):
            assert answer == (expected[: len(answer)] if request is gone else expected)
        assert gone.finish_reason == "cancelled"
