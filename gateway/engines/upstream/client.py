"""The client of one OpenAI-compatible server, behind the interface of engine clients."""

import asyncio
import time
from collections.abc import Mapping
from collections.abc import Sequence as Many
from contextlib import suppress
from typing import Final

import structlog
from msgspec import structs

from engine.protocol import (
    Finish,
    KvState,
    Mode,
    Pin,
    Refused,
    Sequence,
    SequenceId,
    Starting,
)
from gateway.engines.interface import EngineListener
from gateway.engines.upstream.concurrency import ConcurrencyLimit
from gateway.engines.upstream.dialects import Dialect, dialect_of
from gateway.engines.upstream.failures import (
    RequestRefused,
    ServerBusy,
    ServerDenied,
    ServerStarting,
    ServerUnreachable,
    ServerUnusable,
    StreamBroken,
)
from gateway.engines.upstream.health import ServerHealth
from gateway.engines.upstream.hints import Hint, hint_fields, hint_headers
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.probe import Probed, described, probe
from gateway.engines.upstream.sequence_stream import SequenceStream
from gateway.engines.upstream.server import UpstreamServer
from gateway.engines.upstream.steps import StepGrouper
from gateway.errors import StartupFailure

RETRY_S: Final = 1.0  # between two attempts to connect
WATCH_S: Final = 1.0
BUSY_S: Final = 1.0  # after a 429 that says no time
MAX_BUSY_S: Final = 30.0
BUSY_PATIENCE_S: Final = 120.0  # of a sequence that the server keeps refusing
ASSUMED_SEQUENCES: Final = 1024  # whose longest answers fit a memory of unknown size
ASSUMED_PAGE: Final = 16

log = structlog.get_logger()


class UpstreamEngine:
    """Runs each sequence as a stream of its own, as many at once as `ConcurrencyLimit` allows.

    A stream that fails goes on in another one from the tokens that have come. If the server itself
    is away, the engine is lost; when it answers again it is probed again, and the listener submits
    the unfinished sequences.
    """

    def __init__(
        self,
        server: UpstreamServer,
        model: LocalModel,
        *,
        wanted: str | None = None,
        max_running: int | None = None,
        silence_s: float = 60.0,
        hints: frozenset[Hint] = frozenset(),
    ) -> None:
        """`wanted`: the model's name at the server. A server, or a stream, may be silent for so
        long.
        """
        self._server = server
        self._model = model
        self._wanted = wanted
        self._max_running = max_running
        self._silence_s = silence_s
        self._hints = hints
        self._listener: EngineListener
        self._probed: Probed | None = None
        self._dialect: Dialect
        self._priority = False
        self._health: ServerHealth
        self._concurrency = ConcurrencyLimit(max_running)
        self._steps: StepGrouper
        self._active: dict[SequenceId, SequenceStream] = {}
        self._queue: dict[SequenceId, SequenceStream] = {}
        self._submitted = 0
        self._held_until_s = 0.0
        self._heard_s = 0.0
        self._reason = ""
        self._follower: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[StartupFailure] | None = None
        self.proven = False  # it has served: later failures are waited for

    @property
    def busy_s(self) -> float:
        """Seconds since the last event, while sequences run."""
        return time.monotonic() - self._heard_s if self._running else 0.0

    async def start(self, listener: EngineListener) -> None:
        """Start to connect; the listener is notified once the server is probed."""
        self._listener = listener
        limit = lambda: self._concurrency.limit  # noqa: E731
        self._steps = StepGrouper(listener, self._active, self._kv, limit)
        self._failure = asyncio.get_running_loop().create_future()
        self._follower = asyncio.create_task(self._follow(), name="upstream")

    async def close(self) -> None:
        """Close all streams: the server stops generating."""
        tasks = [*self._tasks, *([self._follower] if self._follower else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self._server.close()

    async def failed(self) -> StartupFailure:
        """Wait until it is certain that the server cannot be used; returns the reason."""
        assert self._failure is not None
        return await asyncio.shield(self._failure)

    def submit(self, batch: str, sequences: Many[Sequence], pins: Many[Pin] = ()) -> None:  # noqa: ARG002
        """Submit sequences. A server has no batches, and keeps prefixes as it likes."""
        if self._probed is None:
            return
        for sequence in sequences:
            self._submitted += 1
            self._queue[sequence.id] = SequenceStream(sequence, self._submitted)
        self._fill()

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Close these sequences' streams: the server stops generating."""
        for name in ids:
            stream = self._active.pop(name, None) or self._queue.pop(name, None)
            if stream is not None:
                self._steps.forget(stream)
                _stop(stream)
        self._fill()

    def revise(
        self,
        remaining: Mapping[SequenceId, int],  # noqa: ARG002
        preempt_first: Mapping[SequenceId, int],
    ) -> None:
        """Update `preempt_first`, by which queued sequences start."""
        for name, value in preempt_first.items():
            stream = self._active.get(name) or self._queue.get(name)
            if stream is not None:
                stream.preempt_first = value

    def preempt(self, ids: Many[SequenceId]) -> None:
        """Close these sequences' streams; they go on in others when there is room."""
        for name in ids:
            stream = self._active.pop(name, None)
            if stream is not None:
                _stop(stream)
                stream.suspended = True
                self._queue[name] = stream
                self._steps.preempted(stream)

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

    @property
    def _running(self) -> int:
        """How many sequences have their first token."""
        return sum(stream.running for stream in self._active.values())

    async def _follow(self) -> None:
        """Connect, watch, and connect again, until cancelled."""
        while True:
            try:
                probed = await probe(self._server, self._model, self._wanted)
            except ServerUnusable as error:
                self._report(str(error))
                if not self.proven and self._failure and not self._failure.done():
                    self._failure.set_result(StartupFailure(f"LMAAS_UPSTREAM: {error}"))
            except ServerStarting as error:
                self._listener.engine_starting(Starting(self._server.url, str(error)))
            except ServerUnreachable as error:
                self._report(f"{self._server.url} does not answer: {error}")
            except Exception:
                log.exception("upstream_probe_failed")
            else:
                self._open(probed)
                self._lose(await self._watch())
            await asyncio.sleep(RETRY_S)

    def _report(self, reason: str) -> None:
        """Log why the server is not connected, once."""
        if reason != self._reason:
            self._reason = reason
            log.warning("upstream_unavailable", reason=reason)

    def _open(self, probed: Probed) -> None:
        can = probed.capabilities
        self.proven, self._reason = True, ""
        self._probed = probed
        self._dialect = dialect_of(can, self._model)
        self._priority = can.priority
        self._health = ServerHealth(self._server, self._model, self._wanted, can)
        self._concurrency = ConcurrencyLimit(self._max_running or can.most_running)
        self._steps.reset()
        self._heard_s = time.monotonic()
        log.info("upstream_connected", server=can.name, model=can.model, kv_pages=probed.kv)
        info = described(probed, self._model, self._server.url, self._kv())
        self._listener.engine_ready(structs.replace(info, max_running=self._concurrency.limit))

    def _lose(self, reason: str) -> None:
        """The server is away: what runs goes on when it answers again."""
        log.warning("engine_lost", reason=reason)
        self._steps.flush()
        for stream in self._active.values():
            _stop(stream)
        self._active.clear()
        self._queue.clear()
        self._probed = None
        self._steps.reset()
        self._listener.engine_lost()

    async def _watch(self) -> str:
        """Look after the streams and the server; returns why the server is lost."""
        while True:
            await self._health.due(WATCH_S)
            now_s = time.monotonic()
            waits = [now_s - s.started_s for s in self._active.values() if not s.running]
            self._concurrency.observe(now_s, self._running, max(waits, default=0.0))
            self._break_silent(now_s)
            silent_s = now_s - self._heard_s if self._active else 0.0
            reason = await self._health.check(silent=silent_s > self._silence_s)
            self._steps.preemptions += self._health.take_preemptions()
            if reason is not None:
                return reason
            self._fill()

    def _break_silent(self, now_s: float) -> None:
        """Break the streams that were silent for too long: each goes on in another one.

        While others get tokens, a stream may wait for its turn in the server.
        """
        if now_s - self._heard_s < self._silence_s:
            return
        for stream in self._active.values():
            if now_s - max(stream.started_s, stream.heard_s) > self._silence_s and stream.deadline:
                stream.deadline.reschedule(0.0)

    def _kv(self) -> KvState:
        """The server's KV memory: its size, and what our sequences leave of it.

        Where its size is not known, it is so large that the number of sequences bounds first.
        """
        assert self._probed is not None
        if self._probed.kv is None:
            pages = ASSUMED_SEQUENCES * -(-self._probed.context_tokens // ASSUMED_PAGE)
            return KvState(pages, pages, ASSUMED_PAGE)
        pages, page_tokens = self._probed.kv
        used = sum(-(-s.kv_tokens // page_tokens) for s in self._active.values() if s.running)
        return KvState(pages, max(pages - used, 0), page_tokens)

    def _fill(self) -> None:
        """Start queued sequences up to the limit."""
        now_s = time.monotonic()
        if not self._queue or now_s < self._held_until_s:
            return
        for stream in sorted(self._queue.values(), key=lambda each: each.rank):
            if len(self._active) >= self._concurrency.limit:
                return
            if self._has_room(stream):
                self._start(stream, now_s)

    def _has_room(self, stream: SequenceStream) -> bool:
        """Whether a sequence may start: one that was preempted waits until its pages are free."""
        if not stream.suspended or not self._active:
            return True
        kv = self._kv()
        return stream.kv_tokens < kv.free * kv.page_tokens

    def _start(self, stream: SequenceStream, now_s: float) -> None:
        del self._queue[stream.sequence.id]
        stream.suspended, stream.running = False, False
        stream.started_s = stream.heard_s = now_s
        self._steps.starting(now_s)
        self._active[stream.sequence.id] = stream
        task = asyncio.create_task(self._run(stream), name=f"stream {stream.sequence.id}")
        stream.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: SequenceStream) -> None:
        """Run a sequence, and report how it ended."""
        name = stream.sequence.id
        try:
            end = await self._end_of(stream)
        except ServerBusy as error:
            self._put_back(stream, error)
            return
        except RequestRefused as error:
            if not stream.held:
                if self._leave(stream):
                    self._listener.engine_refused([Refused(name, str(error))])
                return
            end = Finish(name, "error", str(error))  # it was accepted before
        except Exception:
            log.exception("stream_failed", sequence=name)
            end = Finish(name, "error", "the client of the server failed; see the gateway's log")
        if self._leave(stream):
            self._steps.ended(stream, end)

    async def _end_of(self, stream: SequenceStream) -> Finish:
        """The end of a sequence, through as many streams as it needs. ServerBusy, RequestRefused.

        While the server itself is away, this waits; it is cancelled if the server is lost.
        """
        name = stream.sequence.id
        while True:
            try:
                return await self._attempt(stream)
            except StreamBroken as error:
                delay_s = stream.failed()
                if delay_s is None:
                    return Finish(name, "error", f"the server failed repeatedly: {error}")
                self._steps.retries += 1
                log.warning("stream_broken", sequence=name, reason=str(error))
                if error.connection:
                    await self._health.confirmed()
                await asyncio.sleep(delay_s)
            except ServerDenied as error:
                await self._health.confirmed(with_model=True)
                raise RequestRefused(str(error)) from error

    async def _attempt(self, stream: SequenceStream) -> Finish:
        """One stream. StreamBroken also if it was silent for too long."""
        stream.running = False
        stream.started_s = stream.heard_s = time.monotonic()
        sequence, hints = stream.sequence, self._hints
        fields = hint_fields(
            sequence, hints, priority=self._priority, preempt_first=stream.preempt_first
        )
        headers = hint_headers(sequence, hints)
        try:
            async with asyncio.timeout(None) as stream.deadline:
                return await stream.run(
                    self._server, self._dialect, self._model, fields, headers, self._heard
                )
        except TimeoutError as error:
            message = f"the server sent nothing for {self._silence_s:g} s"
            raise StreamBroken(message, connection=True) from error
        finally:
            stream.deadline = None

    def _heard(self, stream: SequenceStream) -> None:
        """An event of a stream came."""
        now_s = time.monotonic()
        self._heard_s = stream.heard_s = now_s
        stream.busy_since_s = None
        if stream.fresh:
            first, stream.running = not stream.running, True
            self._steps.grew(stream, first=first)
            if first:
                self._concurrency.observe(now_s, self._running, 0.0)

    def _leave(self, stream: SequenceStream) -> bool:
        """A stream ends; False if its sequence was cancelled meanwhile."""
        present = self._active.pop(stream.sequence.id, None) is stream
        self._fill()
        return present

    def _put_back(self, stream: SequenceStream, error: ServerBusy) -> None:
        """Queue a sequence that the server has no room for, and start nothing for a while."""
        name, now_s = stream.sequence.id, time.monotonic()
        if self._active.pop(name, None) is not stream:
            return
        self._concurrency.refused(len(self._active))
        since_s = stream.busy_since_s = stream.busy_since_s or now_s
        wait_s = min(BUSY_S if error.retry_after_s is None else error.retry_after_s, MAX_BUSY_S)
        if now_s - since_s > BUSY_PATIENCE_S:
            self._steps.ended(stream, Finish(name, "error", f"the server is too busy: {error}"))
            return
        log.info("upstream_busy", sequence=name, wait_s=wait_s, reason=str(error))
        self._queue[name] = stream
        self._held_until_s = max(self._held_until_s, now_s + wait_s)
        asyncio.get_running_loop().call_later(wait_s + 0.001, self._fill)


def _stop(stream: SequenceStream) -> None:
    """End a stream's task, which closes its connection."""
    if stream.task is not None:
        stream.task.cancel()
        stream.task = None
