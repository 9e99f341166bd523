"""The sequences at one server: which wait, which run, and what becomes of those that fail."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from engine.protocol import Finish, KvState, Refused, Sequence, SequenceId
from gateway.engines.interface import EngineListener
from gateway.engines.upstream.concurrency import ConcurrencyLimit
from gateway.engines.upstream.dialects import Dialect
from gateway.engines.upstream.failures import (
    RequestRefused,
    ServerBusy,
    ServerDenied,
    StreamBroken,
)
from gateway.engines.upstream.health import ServerHealth
from gateway.engines.upstream.hints import Hint, hint_fields, hint_headers
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.sequence_stream import SequenceStream
from gateway.engines.upstream.server import UpstreamServer
from gateway.engines.upstream.step_counter import StepCounter
from gateway.engines.upstream.steps import StepGrouper

BUSY_S: Final = 1.0  # after a 429 that says no time
MAX_BUSY_S: Final = 30.0
BUSY_PATIENCE_S: Final = 120.0  # of a sequence that the server keeps refusing
MOST_SILENCES: Final = 4  # times `silence_s`: while tokens come together, events are rarer
HUNG_SILENCES: Final = 5  # of one stream, while others get tokens

log = structlog.get_logger()


class Connection(Struct, frozen=True):
    """A server that was probed: how it is asked, its health, and its KV memory when empty."""

    dialect: Dialect
    priority: bool
    intervals: bool
    health: ServerHealth
    kv: KvState
    most_running: int | None


class StreamPool:
    """Runs each sequence as a stream of its own, as many at once as `ConcurrencyLimit` allows.

    A stream that fails goes on in another one from the tokens that have come.
    """

    def __init__(
        self,
        server: UpstreamServer,
        model: LocalModel,
        listener: EngineListener,
        connection: Connection,
        *,
        silence_s: float,
        hints: frozenset[Hint],
        others: bool = False,
    ) -> None:
        """All streams may be silent for `silence_s`. `others`: there are servers besides this."""
        self._server = server
        self._model = model
        self._listener = listener
        self._connection = connection
        self._silence_s = silence_s
        self._hints = hints
        self._others = others
        self._concurrency = ConcurrencyLimit(connection.most_running)
        self._active: dict[SequenceId, SequenceStream] = {}
        self._queue: dict[SequenceId, SequenceStream] = {}
        self._counter = StepCounter()
        self._steps = StepGrouper(
            listener, self._active, self.kv, lambda: self.limit, self._counter
        )
        self._submitted = 0
        self._held_until_s = 0.0
        self._heard_s = self._grown_s = time.monotonic()
        self._served_s: dict[int, float] = {}  # latest start of who began, by `preempt_first`
        self._tasks: set[asyncio.Task[None]] = set()
        self.broken = ""  # why none of its streams gets on, though it answers

    @property
    def limit(self) -> int:
        """The most sequences that the server is given at once."""
        return self._concurrency.limit

    @property
    def busy_s(self) -> float:
        """Seconds since the last event, while sequences run."""
        return time.monotonic() - self._heard_s if self._running else 0.0

    @property
    def silent(self) -> bool:
        """Whether no stream has had an event for too long."""
        return bool(self._active) and time.monotonic() - self._heard_s > self._patience_s

    @property
    def _patience_s(self) -> float:
        """How long all streams may be silent: longer while none of them has an event a token."""
        running = (stream.at_once for stream in self._active.values() if stream.running)
        return self._silence_s * min(min(running, default=1), MOST_SILENCES)

    def kv(self) -> KvState:
        """The server's KV memory, and what our sequences leave of it."""
        pages, page_tokens = self._connection.kv.pages, self._connection.kv.page_tokens
        running = (stream for stream in self._active.values() if stream.running)
        tokens = (stream.kv_tokens + self._counter.on_the_way(stream) for stream in running)
        used = sum(-(-each // page_tokens) for each in tokens)
        return KvState(pages, max(pages - used, 0), page_tokens)

    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences; they start as soon as the server has room."""
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

    def revise(self, preempt_first: Mapping[SequenceId, int]) -> None:
        """Update who yields, by which queued sequences start."""
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

    def look_after(self, preemptions: int) -> None:
        """Learn what the server runs, break silent streams, and start what there is room for.

        The server has reported `preemptions` since the last call.
        """
        self._steps.preemptions += preemptions
        now_s = time.monotonic()
        waits = [now_s - s.started_s for s in self._active.values() if not s.running]
        self._concurrency.observe(now_s, self._running, max(waits, default=0.0))
        self._break_silent(now_s)
        self._fill()

    def clear(self) -> None:
        """The server is lost: hand over what has come, and forget all sequences."""
        self._steps.flush()
        for stream in self._active.values():
            _stop(stream)
        self._active.clear()
        self._queue.clear()

    async def close(self) -> None:
        """Close all streams."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    @property
    def _running(self) -> int:
        """How many sequences have their first token."""
        return sum(stream.running for stream in self._active.values())

    def _break_silent(self, now_s: float) -> None:
        """Break the streams that were silent for too long: each goes on in another one.

        While others get tokens, a stream may wait for its turn in the server, but not be overtaken
        by those that came later.
        """
        patience_s = self._patience_s if self.silent else HUNG_SILENCES * self._silence_s
        for stream in self._active.values():
            if now_s - max(stream.started_s, stream.heard_s) <= patience_s:
                continue
            if stream.deadline and (self.silent or stream.running or self._overtaken(stream)):
                stream.deadline.reschedule(0.0)

    def _overtaken(self, stream: SequenceStream) -> bool:
        """Whether one that was to start after this stream has had its first token."""
        return any(
            yields >= stream.preempt_first and started_s > stream.started_s
            for yields, started_s in self._served_s.items()
        )

    def _fill(self) -> None:
        """Start queued sequences up to the limit."""
        now_s = time.monotonic()
        if not self._queue or now_s < self._held_until_s:
            return
        for stream in sorted(self._queue.values(), key=lambda each: each.rank):
            if len(self._active) >= self.limit:
                return
            if self._has_room(stream):
                self._start(stream, now_s)

    def _has_room(self, stream: SequenceStream) -> bool:
        """Whether a sequence may start: one that was preempted waits until its pages are free."""
        if not stream.suspended or not self._active:
            return True
        kv = self.kv()
        return stream.kv_tokens < kv.free * kv.page_tokens

    def _start(self, stream: SequenceStream, now_s: float) -> None:
        del self._queue[stream.sequence.id]
        stream.suspended, stream.running = False, False
        stream.started_s = stream.heard_s = now_s
        self._steps.starting(stream, now_s)
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
                stream.running = False
                delay_s = stream.failed(time.monotonic())
                if delay_s is None:
                    if self._others and self._grown_s < stream.failing_s:
                        self.broken = f"its answers fail: {error}"
                        await asyncio.get_running_loop().create_future()  # until it is lost
                    return Finish(name, "error", f"the server failed repeatedly: {error}")
                self._steps.retries += 1
                log.warning("stream_broken", sequence=name, reason=str(error))
                if error.connection:
                    await self._connection.health.confirmed()
                await asyncio.sleep(delay_s)
                self._steps.starting(stream, time.monotonic())
            except ServerDenied as error:
                await self._connection.health.confirmed(with_model=True)
                raise RequestRefused(str(error)) from error

    async def _attempt(self, stream: SequenceStream) -> Finish:
        """One stream. StreamBroken also if it was silent for too long."""
        stream.running, stream.step, stream.at_once = False, None, self._at_once(stream)
        stream.started_s = stream.heard_s = time.monotonic()
        sequence, hints = stream.sequence, self._hints
        fields = hint_fields(
            sequence, hints, priority=self._connection.priority, preempt_first=stream.preempt_first
        )
        headers = hint_headers(sequence, hints)
        try:
            async with asyncio.timeout(None) as stream.deadline:
                return await stream.run(
                    self._server,
                    self._connection.dialect,
                    self._model,
                    fields,
                    headers,
                    self._heard,
                )
        except TimeoutError as error:
            message = f"the server sent nothing for {self._silence_s:g} s"
            raise StreamBroken(message, connection=True) from error
        finally:
            stream.deadline = None

    def _at_once(self, stream: SequenceStream) -> int:
        """How many of its tokens may come together."""
        if not (self._connection.intervals and stream.sequence.whole):
            return 1
        return self._counter.at_once(s for s in self._active.values() if s is not stream)

    def _heard(self, stream: SequenceStream) -> None:
        """An event of a stream came."""
        now_s = time.monotonic()
        self._heard_s = stream.heard_s = now_s
        stream.busy_since_s = None
        if stream.fresh:
            self._grown_s = now_s
            first, stream.running = not stream.running, True
            self._steps.grew(stream, first=first)
            if first:
                before_s = self._served_s.get(stream.preempt_first, 0.0)
                self._served_s[stream.preempt_first] = max(before_s, stream.started_s)
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
