"""Life cycle of the engine: load the model, then serve until a signal or a fatal error."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from socket import socket
from typing import Any, Final

import msgspec
import structlog
import torch
import uvicorn
import uvloop
from msgspec import structs

from engine.grammar.cache import GrammarCache, no_compiler
from engine.grammar.compiler import Compiler
from engine.kv.host import HostTier
from engine.kv.pages import PagePool
from engine.log_thread import standard_error
from engine.loop import StepLoop
from engine.protocol import HOST_PLACEMENTS, EngineInfo, HostCost, KvPlacement, KvState, Step
from engine.running.host_costs import measure_host_costs
from engine.running.loaded_model import LoadedModel
from engine.running.model import load_model, tokenizer_file
from engine.running.offloading import Offloading, set_up_offloading
from engine.running.runner import Runner, choose_attention
from engine.running.sizing import max_running, pool_pages
from engine.service.events import EventLog
from engine.service.server import Server
from engine.service.sessions import Sessions
from engine.service.startup import Startup
from engine.settings import Settings
from engine.step.commands import Audit
from engine.step.composer import Composer
from engine.step.memory import KvMemory
from engine.step.offloaded import OffloadedQueue

EXIT_FAILED: Final = 1  # exit code after a fatal error
LAST_STEP_TIMEOUT_S: Final = 10.0
HANG_CHECK_S: Final = 1.0
SHUTDOWN_TIMEOUT_S: Final = 2
MAX_IDLE_CONNECTION_S: Final = (
    3600  # the gateway's pool closes first: no call meets a closing connection
)

# Tokens of the first steps. A CPU takes as long for each in a small step as in a large one.
WARM_UP_TOKENS: Final = {"cpu": 128, "cuda": 512}

log = structlog.get_logger()


def serve(settings: Settings, startup: Startup) -> int:
    """Load the model, serve it on the startup's socket, and return the exit code at the end.

    StartupFailure if the model cannot be loaded.
    """
    torch.set_num_threads(1)  # in this thread; the model's own thread uses more
    threads = settings.engine_threads or max(1, len(os.sched_getaffinity(0)) - 1)
    startup.enter("reading weights")
    model = load_model(settings.model, settings.engine_device, settings.engine_dtype)
    if model.number_format.warning:
        log.warning("dtype_slow", dtype=_name(model.dtype), reason=model.number_format.warning)
    startup.enter("allocating memory")
    pages = pool_pages(model, settings)
    tokenizer = tokenizer_file(settings.model)
    offloading = None
    if settings.offload_kv_tokens >= settings.page_tokens:
        offloading = set_up_offloading(
            model,
            settings.offload_kv_tokens // settings.page_tokens,
            settings.page_tokens,
            choose_attention,
        )
    runner = Runner(
        model,
        pages,
        settings.page_tokens,
        threads=threads,
        graph_rows=settings.engine_graph_rows,
        offloading=offloading,
    )
    startup.enter("warming up")
    tokens = min(
        WARM_UP_TOKENS[model.device.type], settings.engine_step_tokens, model.context_tokens
    )
    costs = runner.measure(tokens)
    host_costs = (
        {}
        if offloading is None
        else measure_host_costs(runner, offloading, settings.engine_step_tokens)
    )
    memory = KvMemory(
        PagePool(pages, settings.page_tokens),
        HostTier(settings.host_kv_tokens // settings.page_tokens, costs),
        sharing=settings.prefix_sharing,
        pin_share=settings.engine_pin_share,
    )
    composer = Composer(
        memory,
        settings.engine_step_tokens,
        max_running(model, settings),
        settings.engine_background_factor,
        offloaded_queue(offloading, settings),
    )
    info = describe(startup.epoch, model, pages, settings, composer.max_running)
    info = with_host_memory(info, model, offloading, host_costs)
    grammars = GrammarCache(
        partial(Compiler, tokenizer, model.vocabulary, model.stop_ids) if tokenizer else no_compiler
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as asynchronous:
            engine = Engine(runner, composer, info, settings.engine_step_limit_s, grammars)
            return asynchronous.run(engine.serve(startup.served()))
    finally:
        runner.close()
        grammars.close()


def describe(
    epoch: str, model: LoadedModel, pages: int, settings: Settings, running: int
) -> EngineInfo:
    """The `/info` of this process; its context is limited by the KV pool."""
    page_tokens = settings.page_tokens
    return EngineInfo(
        epoch=epoch,
        model=model.name,
        context_tokens=min(model.context_tokens, pages * page_tokens),
        vocabulary=model.vocabulary,
        stop_ids=model.stop_ids,
        kv=KvState(pages=pages, free=pages, page_tokens=page_tokens),
        device=str(model.device),
        dtype=_name(model.dtype),
        max_running=running,
        step_tokens=settings.engine_step_tokens,
        dtype_reason=model.number_format.reason,
    )


def offloaded_queue(offloading: Offloading | None, settings: Settings) -> OffloadedQueue:
    """The queue of sequences in host memory; half of a step's tokens are theirs at most."""
    pages = offloading.store.pages if offloading else 0
    return OffloadedQueue(
        PagePool(pages, settings.page_tokens), max(1, settings.engine_step_tokens // 2)
    )


def with_host_memory(
    info: EngineInfo,
    model: LoadedModel,
    offloading: Offloading | None,
    costs: dict[KvPlacement, HostCost],
) -> EngineInfo:
    """The `/info` with what it says of sequences in host memory."""
    if offloading is None:
        none = "the engine has no memory for it: set LMAAS_OFFLOAD_KV_TOKENS"
        return structs.replace(info, offload_refusals=dict.fromkeys(HOST_PLACEMENTS, none))
    pages = offloading.store.pages
    return structs.replace(
        info,
        kv=structs.replace(info.kv, offload_pages=pages, offload_free=pages),
        offload_context_tokens=min(model.context_tokens, offloading.context_tokens),
        offload_refusals=offloading.refusals,
        host_costs=costs,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Engine:
    """The step loop and its server; ends when one of them ends."""

    def __init__(
        self,
        runner: Runner,
        composer: Composer,
        info: EngineInfo,
        step_limit_s: float,
        grammars: GrammarCache,
    ) -> None:
        self._info = info
        self._step_limit_s = step_limit_s
        self._failures: list[BaseException] = []
        self._loop = StepLoop(runner, composer, self._emit, self._on_failure, grammars)
        self._sessions = Sessions(info, EventLog(busy_s=self._busy_s), self._loop.put)
        self._http = _Http(_http_config(Server(info, self._sessions, self._stats, self._audit)))

    async def serve(self, listener: socket) -> int:
        """Serve until a signal or a fatal error; the exit code."""
        self._event_loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._event_loop.add_signal_handler(number, self._stop)
        self._loop.start()
        log.info(
            "engine_started",
            model=self._info.model,
            epoch=self._info.epoch,
            device=self._info.device,
            dtype=self._info.dtype,
            dtype_reason=self._info.dtype_reason,
            kv_tokens=self._info.kv.pages * self._info.kv.page_tokens,
        )
        hang_watch = asyncio.create_task(self._watch_for_hang())
        await self._http.serve(sockets=[listener])
        hang_watch.cancel()
        self._loop.close()
        await asyncio.to_thread(self._loop.join, LAST_STEP_TIMEOUT_S)
        log.info("engine_stopped", died=bool(self._failures))
        if self._loop.is_alive():  # a step hangs
            standard_error().drain()
            os._exit(EXIT_FAILED)
        return EXIT_FAILED if self._failures else os.EX_OK

    async def _watch_for_hang(self) -> None:
        """Exit the process when a step hangs: a stuck device call cannot be interrupted."""
        while self._busy_s() < self._step_limit_s:  # noqa: ASYNC110 - a hang raises no event
            await asyncio.sleep(HANG_CHECK_S)
        log.error("step_hung", busy_s=round(self._busy_s(), 1))
        standard_error().drain()
        os._exit(EXIT_FAILED)

    def _busy_s(self) -> float:
        return self._loop.busy_s

    def _emit(self, step: Step) -> None:
        self._event_loop.call_soon_threadsafe(self._sessions.publish, step)

    def _on_failure(self, error: BaseException) -> None:
        self._failures.append(error)
        self._event_loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._sessions.close()
        self._http.should_exit = True

    async def _audit(self) -> str | None:
        """The first inconsistency of the pages; None if there is none."""
        found: asyncio.Future[str | None] = self._event_loop.create_future()

        def answer(wrong: str | None) -> None:
            self._event_loop.call_soon_threadsafe(found.set_result, wrong)

        self._loop.put(Audit(answer))
        return await found

    def _stats(self) -> dict[str, Any]:
        loop, table = self._loop, self._loop.table
        composer = table.composer
        return {
            **msgspec.structs.asdict(loop.kv),
            "mode": table.mode,
            "paused": table.paused,
            "draining": self._sessions.draining,
            "running": len(composer.running),
            "preempted": len(composer.preempted),
            "waiting": len(composer.waiting),
            "busy_s": loop.busy_s,
            **asdict(loop.stats),
        }


class _Http(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield


def _http_config(app: Server) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=MAX_IDLE_CONNECTION_S,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
