"""The engine client against the real engine process with the demo model."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Many
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from engine.protocol import EngineInfo, Finish, KvState, Refused, Sequence, Starting, Step
from gateway.engines.colocated import ColocatedEngine
from gateway.engines.supervisor import EngineSupervisor
from tests.conftest import PATIENCE_S
from tests.supervised_engine import supervised_engine


class RecordingListener:
    """Records the engine's events, and waits for expected ones."""

    def __init__(self) -> None:
        self.epochs: list[str] = []
        self.losses = 0
        self.phases: list[str] = []
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, Finish] = {}
        self.refused: list[Refused] = []
        self.kv: KvState | None = None
        self._changed = asyncio.Event()

    def engine_ready(self, info: EngineInfo) -> None:
        self.epochs.append(info.epoch)
        self._changed.set()

    def engine_lost(self) -> None:
        self.losses += 1
        self._changed.set()

    def engine_starting(self, starting: Starting) -> None:
        self.phases.append(starting.phase)
        self._changed.set()

    def engine_refused(self, refused: Many[Refused]) -> None:
        self.refused.extend(refused)
        self._changed.set()

    def engine_stepped(self, step: Step) -> None:
        self.kv = step.kv
        for name, tokens in step.tokens.items():
            self.tokens.setdefault(name, []).extend(tokens)
        self.finished.update({finish.id: finish for finish in step.finished})
        self._changed.set()

    async def wait_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(scope="module")
async def supervisor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineSupervisor]:
    folder = tmp_path_factory.mktemp("engine")
    async with supervised_engine(folder) as supervisor:
        yield supervisor


@asynccontextmanager
async def connected(
    supervisor: EngineSupervisor,
) -> AsyncIterator[tuple[ColocatedEngine, RecordingListener]]:
    listener = RecordingListener()
    engine = ColocatedEngine(supervisor.socket)
    await engine.start(listener)
    await listener.wait_until(lambda: listener.epochs)
    yield engine, listener
    await engine.close()


def a_sequence(name: str, *, max_tokens: int = 8) -> Sequence:
    return Sequence(id=name, prompt=[1, 5, 2, 6, 3], max_tokens=max_tokens, reserve=max_tokens)


async def test_batch_runs_to_its_end(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.submit("batch", [a_sequence("a"), a_sequence("b", max_tokens=3)])
        await listener.wait_until(lambda: len(listener.finished) == 2)
        assert {name: len(tokens) for name, tokens in listener.tokens.items()} == {"a": 8, "b": 3}
        assert listener.finished["a"].reason == "length"


async def test_sequence_that_can_never_run_is_refused(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.submit("batch", [a_sequence("long", max_tokens=10**6), a_sequence("short")])
        await listener.wait_until(lambda: listener.refused and "short" in listener.finished)
        assert [refused.id for refused in listener.refused] == ["long"]


async def test_cancelled_sequence_ends(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.submit("batch", [a_sequence("gone", max_tokens=1500)])
        await listener.wait_until(lambda: "gone" in listener.tokens)
        engine.cancel(["gone"])
        await listener.wait_until(lambda: "gone" in listener.finished)
        assert listener.finished["gone"].reason == "cancelled"


async def test_paused_engine_computes_nothing_until_resumed(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.pause()
        engine.submit("batch", [a_sequence("a")])
        await asyncio.sleep(0.3)
        assert not listener.tokens
        engine.resume()
        await listener.wait_until(lambda: "a" in listener.finished)


async def test_draining_engine_refuses_new_sequences_and_finishes_running_ones(
    supervisor: EngineSupervisor,
) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.submit("before", [a_sequence("old", max_tokens=100)])
        engine.drain()
        engine.submit("after", [a_sequence("new")])
        await listener.wait_until(lambda: listener.refused and "old" in listener.finished)
        assert [refused.id for refused in listener.refused] == ["new"]
        engine.resume()
        engine.submit("again", [a_sequence("new")])
        await listener.wait_until(lambda: "new" in listener.finished)


async def test_static_batch_leaves_as_a_whole(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.set_mode("lockstep")
        engine.submit("batch", [a_sequence("long", max_tokens=40), a_sequence("short")])
        await listener.wait_until(lambda: listener.finished)
        assert listener.finished.keys() == {"long", "short"}


async def test_pinned_prefix_is_kept_until_unpinned(supervisor: EngineSupervisor) -> None:
    prompt = [1, *range(100, 164)]  # four pages and a token
    async with connected(supervisor) as (engine, listener):
        engine.pin("prefix", prompt, "tenant")
        for name, shared in (("a", 4), ("b", 0)):
            sequence = Sequence(name, prompt, max_tokens=4, reserve=4, salt="tenant")
            engine.submit(name, [sequence])
            engine.revise({name: 2}, {name: 1})
            await listener.wait_until(lambda name=name: name in listener.finished)  # type: ignore[misc]
            assert listener.kv is not None
            assert listener.kv.shared == shared
            engine.unpin(["prefix"])


async def test_killed_engine_is_replaced_and_announced(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await listener.wait_until(lambda: len(listener.epochs) == 2)
        assert listener.losses == 1
        assert listener.epochs[0] != listener.epochs[1]
        engine.submit("after", [a_sequence("after")])
        await listener.wait_until(lambda: "after" in listener.finished)


async def test_unreadable_operation_fails_alone(supervisor: EngineSupervisor) -> None:
    async with connected(supervisor) as (engine, listener):
        engine.submit("bad", [Sequence(id="empty", prompt=[], max_tokens=1, reserve=1)])
        engine.submit("good", [a_sequence("fine")])
        await listener.wait_until(lambda: listener.refused and "fine" in listener.finished)
        assert [refused.id for refused in listener.refused] == ["empty"]


async def test_client_reconnects_after_a_takeover(supervisor: EngineSupervisor) -> None:
    transport = httpx.AsyncHTTPTransport(uds=supervisor.socket)
    async with connected(supervisor) as (engine, listener):
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://engine") as other,
            other.stream("GET", "/events", params={"session": "another"}) as events,
        ):
            await anext(events.aiter_lines())
            await listener.wait_until(lambda: listener.losses and len(listener.epochs) > 1)
        engine.submit("after", [a_sequence("after takeover")])
        await listener.wait_until(lambda: "after takeover" in listener.finished)


async def test_engine_dies_with_its_supervisor(supervisor: EngineSupervisor) -> None:
    pid = supervisor.pid
    assert pid is not None
    await supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_missing_model_is_reported_from_the_engines_log(tmp_path: Path) -> None:
    environment = {
        "LMAAS_MODEL": str(tmp_path / "nowhere"),
        "LMAAS_ENGINE_SOCKET": str(tmp_path / "e.sock"),
    }
    supervisor = EngineSupervisor(environment, tmp_path / "engine.log")
    await supervisor.start()
    failure = await supervisor.failed()
    assert "nowhere" in failure.message
    await supervisor.stop()
