"""The client of one OpenAI-compatible server, behind the interface of engine clients."""

import asyncio
import time
from collections.abc import Mapping
from collections.abc import Sequence as Many
from contextlib import suppress
from math import inf
from typing import Final

import structlog
from msgspec import structs

from engine.protocol import KvState, Mode, Pin, Sequence, SequenceId, Starting
from gateway.engines.interface import EngineListener
from gateway.engines.upstream.dialects import dialect_of
from gateway.engines.upstream.failures import ServerStarting, ServerUnreachable, ServerUnusable
from gateway.engines.upstream.health import ServerHealth
from gateway.engines.upstream.hints import Hint
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.probe import Probed, described, probe
from gateway.engines.upstream.server import UpstreamServer
from gateway.engines.upstream.stream_pool import Connection, StreamPool
from gateway.errors import StartupFailure

RETRY_S: Final = 1.0  # between two attempts to connect
WATCH_S: Final = 1.0
ASSUMED_SEQUENCES: Final = 1024  # whose longest answers fit a memory of unknown size
ASSUMED_PAGE: Final = 16

log = structlog.get_logger()


class UpstreamEngine:
    """Connects to a server, watches over it, and gives its sequences to a `StreamPool`.

    If the server is away, the engine is lost; when it answers again it is probed again, and the
    listener submits the unfinished sequences.
    """

    def __init__(
        self,
        server: UpstreamServer,
        model: LocalModel,
        *,
        wanted: str | None = None,
        max_running: int | None = None,
        silence_s: float = 60.0,
        start_s: float = inf,
        hints: frozenset[Hint] = frozenset(),
        others: bool = False,
    ) -> None:
        """`wanted`: the model's name at the server. All streams may be silent for `silence_s`, and
        the server may load its model for `start_s`. `others`: there are servers besides this one.
        """
        self._server = server
        self._model = model
        self._wanted = wanted
        self._max_running = max_running
        self._silence_s = silence_s
        self._start_s = start_s
        self._hints = hints
        self._others = others
        self._starting_since_s: float | None = None
        self._listener: EngineListener
        self._pool: StreamPool | None = None  # while it is connected
        self.reason = ""
        self._follower: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[StartupFailure] | None = None
        self.proven = False  # it has served: later failures are waited for

    @property
    def busy_s(self) -> float:
        """Seconds since the last event, while sequences run."""
        return self._pool.busy_s if self._pool else 0.0

    async def start(self, listener: EngineListener) -> None:
        """Start to connect; the listener is notified once the server is probed."""
        self._listener = listener
        self._failure = asyncio.get_running_loop().create_future()
        self._follower = asyncio.create_task(self._follow(), name="upstream")

    async def close(self) -> None:
        """Close all streams: the server stops generating."""
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        if self._pool is not None:
            await self._pool.close()
        await self._server.close()

    async def failed(self) -> StartupFailure:
        """Wait until it is certain that the server cannot be used; returns the reason."""
        assert self._failure is not None
        return await asyncio.shield(self._failure)

    def submit(self, batch: str, sequences: Many[Sequence], pins: Many[Pin] = ()) -> None:  # noqa: ARG002
        """Submit sequences. A server has no batches, and keeps prefixes as it likes."""
        if self._pool is not None:
            self._pool.submit(sequences)

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Close these sequences' streams: the server stops generating."""
        if self._pool is not None:
            self._pool.cancel(ids)

    def revise(
        self,
        remaining: Mapping[SequenceId, int],  # noqa: ARG002
        preempt_first: Mapping[SequenceId, int],
    ) -> None:
        """Update `preempt_first`, by which queued sequences start."""
        if self._pool is not None:
            self._pool.revise(preempt_first)

    def preempt(self, ids: Many[SequenceId]) -> None:
        """Close these sequences' streams; they go on in others when there is room."""
        if self._pool is not None:
            self._pool.preempt(ids)

    def pause(self) -> None:
        """A server cannot be paused: it is refused before."""

    def drain(self) -> None:
        """The gateway submits nothing new."""

    def resume(self) -> None:
        """Nothing was paused."""

    def set_mode(self, mode: Mode) -> None:
        """A server batches as it likes: lock step is refused before."""

    def pin(self, name: str, tokens: Many[int], salt: str) -> None:
        """A server keeps prefixes as it likes."""

    def unpin(self, names: Many[str]) -> None:
        """Nothing was pinned."""

    async def _follow(self) -> None:
        """Connect, watch, and connect again, until cancelled."""
        while True:
            try:
                await self._serve(await probe(self._server, self._model, self._wanted))
            except ServerUnusable as error:
                self._report(str(error))
                if not self.proven and self._failure and not self._failure.done():
                    self._failure.set_result(StartupFailure(f"LMAAS_UPSTREAM: {error}"))
            except ServerStarting as error:
                self._starting(str(error))
            except ServerUnreachable as error:
                self._report(f"{self._server.url} does not answer: {error}")
            except Exception:
                log.exception("upstream_probe_failed")
            await asyncio.sleep(RETRY_S)

    def _starting(self, phase: str) -> None:
        """The server loads its model: it is waited for, but not for ever."""
        now_s = time.monotonic()
        since_s = self._starting_since_s = self._starting_since_s or now_s
        if now_s - since_s <= self._start_s:
            self._listener.engine_starting(Starting(self._server.url, phase))

    def _report(self, reason: str) -> None:
        """Log why the server is not connected, once."""
        if reason != self.reason:
            self.reason = reason
            log.warning("upstream_unavailable", reason=reason)

    async def _serve(self, probed: Probed) -> None:
        """Serve until the server is lost: what runs goes on when it answers again."""
        can = probed.capabilities
        self.proven, self.reason, self._starting_since_s = True, "", None
        if can.kind == "vllm" and not can.salts:
            log.warning("upstream_shares_prefixes", url=self._server.url)
        health = ServerHealth(self._server, self._model, self._wanted, can)
        connection = Connection(
            dialect_of(can, self._model),
            can.priority,
            can.intervals,
            health,
            _memory(probed),
            self._max_running or can.most_running,
        )
        self._pool = pool = StreamPool(
            self._server,
            self._model,
            self._listener,
            connection,
            silence_s=self._silence_s,
            hints=self._hints,
            others=self._others,
        )
        log.info(
            "upstream_connected",
            url=self._server.url,
            server=can.name,
            model=can.model,
            kv_pages=probed.kv,
        )
        info = described(probed, self._model, self._server.url, pool.kv())
        self._listener.engine_ready(structs.replace(info, max_running=pool.limit))
        try:
            reason = await _loss(pool, health)
        except Exception:
            log.exception("upstream_watch_failed")
            reason = "the watch over it failed"
        log.warning("engine_lost", url=self._server.url, reason=reason)
        pool.clear()
        self._pool = None
        self._listener.engine_lost()


async def _loss(pool: StreamPool, health: ServerHealth) -> str:
    """Look after the streams and the server; returns why the server is lost."""
    while True:
        await health.due(WATCH_S)
        pool.look_after(health.take_preemptions())
        reason = await health.check(silent=pool.silent) or pool.broken
        if reason:
            return reason


def _memory(probed: Probed) -> KvState:
    """The server's KV memory when it is empty.

    Where its size is not known, it is so large that the number of sequences bounds first.
    """
    if probed.kv is None:
        pages = ASSUMED_SEQUENCES * -(-probed.context_tokens // ASSUMED_PAGE)
        return KvState(pages, pages, ASSUMED_PAGE)
    pages, page_tokens = probed.kv
    return KvState(pages, pages, page_tokens)
