"""The supervisor of the real engine process."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from gateway.engines.supervisor import EngineSupervisor
from tests.conftest import PATIENCE_S
from tests.supervised_engine import supervised_engine


@pytest.fixture
async def supervisor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineSupervisor]:
    folder = tmp_path_factory.mktemp("engine")
    async with supervised_engine(folder, silence_s=2.0) as supervisor:
        await served(supervisor)
        yield supervisor


async def served(supervisor: EngineSupervisor) -> None:
    """Return once the supervisor knows that the newest process serves."""
    async with asyncio.timeout(PATIENCE_S):
        while not supervisor.serving:
            await asyncio.sleep(0.05)


async def test_process_that_stands_still_is_replaced(supervisor: EngineSupervisor) -> None:
    assert supervisor.pid is not None
    stopped = psutil.Process(supervisor.pid)
    stopped.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE_S):
        while not supervisor.restarts:
            await asyncio.sleep(0.05)
    await served(supervisor)
    assert supervisor.pid != stopped.pid
    assert supervisor.restarts == 1


async def test_start_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    async with supervised_engine(tmp_path, start_s=1.0) as supervisor:
        async with asyncio.timeout(PATIENCE_S):
            while not supervisor.restarts:
                await asyncio.sleep(0.05)
