"""The real engine process with the demo model, under its supervisor."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.engines.supervisor import SILENCE_S, START_S, EngineSupervisor, socket_path


@asynccontextmanager
async def supervised_engine(
    folder: Path, *, silence_s: float = SILENCE_S, start_s: float = START_S, **settings: str
) -> AsyncIterator[EngineSupervisor]:
    """A running engine with one thread and these `LMAAS_*` settings; socket and log in `folder`."""
    environment = {
        "LMAAS_MODEL": str(DEMO_FOLDER),
        "LMAAS_ENGINE_SOCKET": str(socket_path(folder)),
        "LMAAS_ENGINE_THREADS": "1",
        **settings,
    }
    supervisor = EngineSupervisor(
        environment, folder / "engine.log", silence_s=silence_s, start_s=start_s
    )
    await supervisor.start()
    yield supervisor
    await supervisor.stop()
