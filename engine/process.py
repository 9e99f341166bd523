"""The engine's life: load the model, serve until told to stop or unable to go on."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from socket import socket
from typing import Any, Final
from uuid import uuid4

import structlog
import torch
import uvicorn
import uvloop

from engine.address import Address
from engine.composer import Composer
from engine.events import EventLog
from engine.kv.pages import PagePool
from engine.loop import StepLoop
from engine.model import LoadedModel, load_model
from engine.protocol import EngineInfo, KvState, Step
from engine.runner import Runner
from engine.server import Server
from engine.sessions import Sessions
from engine.settings import Settings

DIED: Final = 1  # exit code of an engine that could not go on
LAST_STEP_S: Final = 10.0
GOODBYE_S: Final = 2
IDLE_CONNECTION_S: Final = 3600  # the gateway's pool decides, lest a call meets a closing one

log = structlog.get_logger()


def serve(settings: Settings, address: Address) -> int:
    """Load the model and serve it on an address; the exit code, once that is over.

    StartupFailure where the model or the address cannot be had.
    """
    torch.set_num_threads(settings.engine_threads or max(1, len(os.sched_getaffinity(0)) - 1))
    model = load_model(settings.model, settings.engine_device, settings.engine_dtype)
    runner = Runner(model, settings.pages, settings.page_tokens)
    runner.probe(page=0)
    composer = Composer(PagePool(settings.pages, settings.page_tokens), settings.engine_step_tokens)
    info = describe(model, settings)
    listener = address.listen()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as asynchronous:
            return asynchronous.run(_serve(runner, composer, info, listener))
    finally:
        address.remove()


def describe(model: LoadedModel, settings: Settings) -> EngineInfo:
    """What this process tells of itself; its context is bounded by its KV pool."""
    pages, page_tokens = settings.pages, settings.page_tokens
    return EngineInfo(
        epoch=uuid4().hex,
        model=model.name,
        context_tokens=min(model.context_tokens, pages * page_tokens),
        vocabulary=model.vocabulary,
        stop_ids=model.stop_ids,
        kv=KvState(pages=pages, free=pages, page_tokens=page_tokens),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


async def _serve(runner: Runner, composer: Composer, info: EngineInfo, listener: socket) -> int:
    clock = asyncio.get_running_loop()
    deaths: list[BaseException] = []

    def emit(step: Step) -> None:
        clock.call_soon_threadsafe(sessions.publish, step)

    def died(error: BaseException) -> None:
        deaths.append(error)
        clock.call_soon_threadsafe(stop)

    def stop() -> None:
        sessions.close()
        http.should_exit = True

    loop = StepLoop(runner, composer, emit, died)
    sessions = Sessions(info, EventLog(), loop.put)
    http = _Http(_configuration(Server(info, sessions, partial(_stats, loop))))
    for number in (signal.SIGTERM, signal.SIGINT):
        clock.add_signal_handler(number, stop)
    loop.start()
    log.info("engine_started", model=info.model, epoch=info.epoch, device=info.device)
    await http.serve(sockets=[listener])
    loop.close()
    await asyncio.to_thread(loop.join, LAST_STEP_S)
    log.info("engine_stopped", died=bool(deaths))
    return DIED if deaths else os.EX_OK


def _stats(loop: StepLoop) -> dict[str, Any]:
    kv, composer = loop.kv, loop.composer
    return {
        "pages": kv.pages,
        "free_pages": kv.free,
        "page_tokens": kv.page_tokens,
        "running": len(composer.running),
        "preempted": len(composer.preempted),
        "waiting": len(composer.waiting),
        **asdict(loop.stats),
    }


class _Http(uvicorn.Server):
    """uvicorn, with the signals left to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stay as they are."""
        yield


def _configuration(app: Server) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=GOODBYE_S,
    )
