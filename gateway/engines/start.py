"""Starts an engine process by the gateway's settings, and waits until it serves."""

import asyncio
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any, Protocol

from gateway.engines.supervisor import EngineSupervisor, socket_path
from gateway.errors import StartupFailure
from gateway.settings import Settings


def engine_sockets(settings: Settings) -> list[Path]:
    """The engines' sockets: those the settings name, else that of the data folder.

    StartupFailure if one is named twice.
    """
    named = [Path(each.strip()) for each in (settings.engine_socket or "").split(",")]
    named = [path for path in named if path != Path()]
    if len(set(named)) < len(named):
        raise StartupFailure("LMAAS_ENGINE_SOCKET names a socket twice")
    return named or [socket_path(settings.data_folder)]


def engine_environment(settings: Settings, model: str, socket: Path) -> dict[str, str]:
    """The environment of the engine process: the gateway's settings, and the model's location."""
    return {
        "LMAAS_MODEL": model,
        "LMAAS_DATA_DIR": settings.data_dir,
        "LMAAS_ENGINE_SOCKET": str(socket),
        "LMAAS_KV_TOKENS": str(settings.kv_tokens),
        "LMAAS_KV_MEMORY_SHARE": str(settings.kv_memory_share),
        "LMAAS_HOST_KV_TOKENS": str(settings.host_kv_tokens),
        "LMAAS_OFFLOAD_KV_TOKENS": str(settings.offload_kv_tokens),
        "LMAAS_PREFIX_SHARING": str(settings.prefix_sharing).lower(),
        "LMAAS_PAGE_TOKENS": str(settings.page_tokens),
        "LMAAS_ENGINE_THREADS": str(settings.engine_threads),
        "LMAAS_ENGINE_DEVICE": settings.engine_device,
        "LMAAS_ENGINE_DTYPE": settings.engine_dtype,
        "LMAAS_ENGINE_STEP_TOKENS": str(settings.engine_step_tokens),
        "LMAAS_MAX_RUNNING": str(settings.max_running),
        "LMAAS_ENGINE_PIN_SHARE": str(settings.engine_pin_share),
        "LMAAS_ENGINE_BACKGROUND_FACTOR": str(settings.engine_background_factor),
        "LMAAS_ENGINE_GRAPH_ROWS": str(settings.engine_graph_rows),
        "LMAAS_ENGINE_STEP_LIMIT_S": str(settings.engine_step_limit_s),
        "LMAAS_MAX_ENGINE_SILENCE_S": str(settings.max_engine_silence_s),
        "LMAAS_MAX_ENGINE_START_S": str(settings.max_engine_start_s),
        "LMAAS_LOG_LEVEL": settings.log_level,
    }


async def start_engine(
    settings: Settings, model: str, log_file: Path, socket: Path | None = None
) -> EngineSupervisor:
    """A supervised engine process that serves the model of this location on a socket."""
    socket = socket or socket_path(settings.data_folder)
    environment = engine_environment(settings, model, socket)
    supervisor = EngineSupervisor(
        environment,
        log_file,
        silence_s=settings.max_engine_silence_s,
        start_s=settings.max_engine_start_s,
    )
    await supervisor.start()
    return supervisor


class Startable(Protocol):
    """An engine process, the client of a server, or several, that may turn out to be unusable."""

    proven: bool  # set once it has served

    @property
    def reason(self) -> str:
        """Why it does not serve yet; empty if that is not known."""

    async def failed(self) -> StartupFailure:
        """Wait until it failed for good; returns the reason."""


async def engine_ready(
    answered: Awaitable[object], started: Iterable[Startable], within_s: float
) -> None:
    """Wait until the engines have answered. StartupFailure if one fails, or they take too long."""
    ready, started = asyncio.ensure_future(answered), list(started)
    failures = [asyncio.create_task(each.failed()) for each in started]
    waits: list[asyncio.Future[Any]] = [ready, *failures]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        for failed in failures:
            if failed.done():
                raise failed.result()
        if not ready.done():
            limit = f"{within_s:.0f} s (LMAAS_MAX_ENGINE_START_S)"
            reason = next((f": {each.reason}" for each in started if each.reason), "")
            raise StartupFailure(f"the engine did not serve its model within {limit}{reason}")
        for each in started:
            each.proven = True
    finally:
        for task in waits:
            task.cancel()
