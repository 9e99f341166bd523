"""The real engine process, timed over its socket."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from engine.protocol import Starting
from gateway.engines.colocated import ColocatedEngine
from gateway.engines.measurement import measured_engine
from gateway.engines.supervisor import EngineSupervisor
from gateway.errors import EngineLost, GenerationFailed
from gateway.replay.cost.trials import TrialArrival
from tests.conftest import PATIENCE_S
from tests.supervised_engine import supervised_engine


@pytest.fixture(scope="module")
async def supervisor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineSupervisor]:
    folder = tmp_path_factory.mktemp("engine")
    async with supervised_engine(folder, LMAAS_ENGINE_STEP_TOKENS="64") as supervisor:
        yield supervisor


async def test_every_token_of_a_trial_is_accounted_for(supervisor: EngineSupervisor) -> None:
    arrivals = [TrialArrival(100, 20), TrialArrival(30, 10), TrialArrival(8, 12, after_steps=6)]
    async with measured_engine(supervisor.socket) as engine:
        for _ in range(2):
            progress = await engine.run("a trial", arrivals)
            steps = progress.steps
            assert sum(step.prefill_tokens for step in steps) == 138
            assert sum(step.sequences for step in steps) == 19 + 9 + 11
            assert max(step.prefill_tokens + step.sequences for step in steps) == 64
            assert all(step.took_s > 0 for step in steps)
            assert [step.gap_s for step in steps].count(None) == 1
            assert len(progress.waits) == len(progress.orders_s) == 1
            assert progress.waits[0]
            assert 0 < progress.orders_s[0] < 1


async def test_sequence_that_does_not_fit_ends_the_trial(supervisor: EngineSupervisor) -> None:
    async with measured_engine(supervisor.socket) as engine:
        with pytest.raises(GenerationFailed, match="context"):
            await engine.run("too long", [TrialArrival(5000, 1)])


class SilentListener:
    """Ignores all events of an engine."""

    def engine_ready(self, info: object) -> None: ...

    def engine_stepped(self, step: object) -> None: ...

    def engine_refused(self, refused: object) -> None: ...

    def engine_lost(self) -> None: ...

    def engine_starting(self, starting: Starting) -> None: ...


async def steps_of(socket: str) -> int:
    """Steps that the engine has run."""
    transport = httpx.AsyncHTTPTransport(uds=socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        return int((await client.get("/stats", timeout=PATIENCE_S)).json()["steps"])


async def test_gateway_that_takes_the_engine_over_ends_the_trial(
    supervisor: EngineSupervisor,
) -> None:
    async with measured_engine(supervisor.socket) as engine:
        before = await steps_of(supervisor.socket)
        running = asyncio.create_task(engine.run("long", [TrialArrival(8, 2000)]))
        while await steps_of(supervisor.socket) == before:
            await asyncio.sleep(0.01)
        other = ColocatedEngine(supervisor.socket)
        await other.start(SilentListener())
        with pytest.raises((EngineLost, GenerationFailed)):
            await asyncio.wait_for(running, PATIENCE_S)
        await other.close()
