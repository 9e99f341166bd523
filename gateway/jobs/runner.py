"""Runs the lines of batch jobs: claims them, queues them in order, and reports their outcomes."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from contextlib import suppress
from itertools import islice
from math import isinf
from typing import Final, Protocol
from uuid import UUID

import structlog
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import (
    GenerationFailed,
    LimitReached,
    LineAboveLimit,
    LmaasError,
    OverLimit,
    TenantQueueFull,
    Unavailable,
)
from gateway.event_wait import wait_for_event
from gateway.generation.request import GenerationRequest, RecordKey
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService, PreparedRequest
from gateway.jobs.line_bound import CHUNK, MAX_LINES, LineBound, worth_claiming
from gateway.jobs.paused_apps import PausedApps

TOGETHER: Final = 8  # lines whose texts are processed at a time
POLL_S: Final = 2.0  # for lines that another gateway made or gave back
RETRY_S: Final = 0.5  # after the first error of a kind; doubled to MAX_RETRY_S
MAX_RETRY_S: Final = 10.0
FLUSH_S: Final = 0.2  # outcomes of this time are written together
FLUSH_LINES: Final = 64

log = structlog.get_logger()


class JobLine(Struct, frozen=True, kw_only=True, eq=False):
    """A line of a batch job, claimed for this gateway, as its request.

    `key` is the same in every attempt, so that history counts a line once. The request's lane is
    `batch`, and its `prefix` is that of the line's group, if it has one.
    """

    key: RecordKey
    request: GenerationRequest


class LineOutcome(Struct, frozen=True):
    """How a line ended: the states of its choices, or the error that kept it from an answer.

    A state has the answer's text (`read(ended=True)`, once), its finish reason, its tokens and its
    error.
    """

    line: JobLine
    states: Sequence[RequestState] = ()
    error: LmaasError | None = None

    @property
    def failure(self) -> LmaasError | None:
        """The error of the line or of one of its choices; None if it was answered."""
        return self.error or next((state.error for state in self.states if state.error), None)


class LineSource(Protocol):
    """The lines that wait, in the order in which they are to start: group after group.

    Any call may raise LmaasError, SQLAlchemyError or OSError while the source cannot be reached; it
    is repeated then.
    """

    async def claim(self, count: int, without: Collection[UUID] = ()) -> Sequence[JobLine]:
        """Up to `count` lines, claimed for this gateway; none if nothing waits.

        Lines of the apps `without` are left out.
        """

    async def finished(self, outcomes: Sequence[LineOutcome]) -> None:
        """Write outcomes, all or none, in the transaction that marks their lines done.

        It is repeated if it failed, so a repetition has no effect. A line that is no longer this
        gateway's is left out. One whose failure may pass (OverLimit, Unavailable) waits again.
        """

    async def release(self, lines: Sequence[JobLine]) -> None:
        """Give lines back that have not ended: they wait again, which is not an attempt."""

    async def lost(self, lines: Sequence[JobLine]) -> Sequence[JobLine]:
        """Of these lines, those that are not to go on: cancelled, expired, or run elsewhere."""


class _Held(Struct, eq=False):
    """A queued or running line: its choices, and the tokens of KV memory that it needs."""

    line: JobLine
    states: list[RequestState]
    tokens: float
    follower: asyncio.Task[None] | None = None


class JobRunner:
    """Keeps about twice the lines that the KV memory holds queued or running.

    A line is held from its claim until its outcome is written or it is given back; the bound is on
    those, so memory does not grow with a job or while the source is away. `ended` is called when
    outcomes have been written and no line is held. `faults` counts lines that failed for what was
    not foreseen.
    """

    def __init__(
        self,
        source: LineSource,
        service: GenerationService,
        faults: MutableMapping[str, int],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._service = service
        self._faults = faults
        self._ended = ended
        self._claimed: deque[JobLine] = deque()  # not yet queued, in order
        self._held: dict[JobLine, _Held] = {}
        self._outcomes: deque[tuple[_Held, LineOutcome]] = deque()
        self._bound = LineBound()
        self._paused = PausedApps()
        self._claiming = True
        self._woken = asyncio.Event()
        self._reported = asyncio.Event()
        self._fewer = asyncio.Event()  # lines are held than before
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start to run lines."""
        self._tasks = [
            asyncio.create_task(self._feed(), name="batch lines"),
            asyncio.create_task(self._write(), name="batch outcomes"),
        ]

    def stop_claiming(self) -> None:
        """Claim and start no further line; those that run may end."""
        self._claiming = False
        started = {line for line, _ in self.running()}
        for line, held in list(self._held.items()):
            if held.follower is not None and line not in started:
                self._drop(held)
                self._claimed.append(line)  # which are given back at the end

    async def wait_for_running(self) -> None:
        """Wait until no line runs, and all outcomes are written."""
        while self._held:
            self._fewer.clear()
            await self._fewer.wait()

    def wake(self) -> None:
        """Look for lines soon."""
        self._woken.set()

    async def drop_lost(self) -> None:
        """Stop the lines that are not to go on here. Errors as of the source."""
        lines = [*self._claimed, *(line for line, held in self._held.items() if held.follower)]
        for line in await self._source.lost(lines) if lines else ():
            with suppress(ValueError):
                self._claimed.remove(line)
            held = self._held.get(line)
            if held is not None and held.follower is not None:
                self._drop(held)
        self.wake()

    async def close(self) -> None:
        """Stop: write the outcomes there are and give back the rest. Errors as of the source."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        unfinished = [*self._claimed, *(line for line, held in self._held.items() if held.follower)]
        for held in list(self._held.values()):
            if held.follower is not None:
                self._drop(held)
        self._claimed.clear()
        self._service.scheduler.pins.keep(None)
        while self._outcomes:
            await self._write_some()
        if unfinished:
            await self._source.release(unfinished)

    def check(self) -> None:
        """AssertionError if more is held than is meant to be; for tests."""
        assert len(self._held) + len(self._claimed) <= MAX_LINES + CHUNK

    @property
    def lines(self) -> int:
        """The lines that are held."""
        return len(self._claimed) + len(self._held)

    def running(self) -> Iterator[tuple[JobLine, RequestState]]:
        """The lines that have started and not ended, each with the state of its first choice."""
        for line, held in self._held.items():
            if held.follower is not None and held.states[0].dispatched_s is not None:
                yield line, held.states[0]

    def _room(self) -> int:
        """How many lines there is room for: in memory, estimated by the lines before."""
        kv = self._service.scheduler.engine.kv
        if kv is None:
            return 0
        pool = kv.pages * kv.page_tokens
        return self._bound.room(pool, self._needed(), len(self._claimed), len(self._held))

    def _needed(self) -> float:
        """Tokens of KV memory that the held lines need, each shared prefix once."""
        shared = {
            state.prefix.id: state.prefix.tokens
            for held in self._held.values()
            for state in held.states[:1]
            if state.prefix is not None
        }
        return sum(held.tokens for held in self._held.values()) + sum(shared.values())

    async def _feed(self) -> None:
        """Claim and queue lines until cancelled."""
        retry_s = RETRY_S
        while True:
            self._woken.clear()
            wait_s = POLL_S
            try:
                await self._queue_claimed()
                if await self._claim():
                    continue
                retry_s = RETRY_S
            except (LmaasError, SQLAlchemyError, OSError) as error:
                log.warning("batch_lines_delayed", reason=repr(error), retry_s=retry_s)
                wait_s, retry_s = retry_s, min(2 * retry_s, MAX_RETRY_S)
            except Exception:
                log.exception("batch_lines_failed")
            await wait_for_event(self._woken, wait_s)

    async def _claim(self) -> bool:
        """Claim lines if there is room for a good part of a chunk; whether there were any."""
        room = self._room()
        if not self._claiming or not self._service.ready:
            return False
        if not worth_claiming(room, len(self._claimed), len(self._held)):
            return False
        lines = await self._source.claim(room, self._paused.now())
        self._claimed.extend(lines)
        if not lines:
            self._service.scheduler.pins.keep(None)
        return bool(lines)

    async def _queue_claimed(self) -> None:
        """Queue the claimed lines in their order, until the runner stops to start any.

        Unavailable or OverLimit: to be repeated.
        """
        while self._claimed and self._claiming:
            lines = list(islice(self._claimed, TOGETHER))
            found = await asyncio.gather(
                *(self._service.prepare(line.request) for line in lines), return_exceptions=True
            )
            for line, prepared in zip(lines, found, strict=True):
                if not self._claimed or self._claimed[0] is not line:
                    continue  # it was dropped meanwhile
                if isinstance(prepared, TenantQueueFull):
                    await self._set_aside(line, prepared)
                    continue
                if isinstance(prepared, OverLimit | Unavailable):
                    raise prepared
                if isinstance(prepared, BaseException):
                    self._fail(line, prepared)
                elif not await self._queued(line, prepared):
                    continue
                self._claimed.popleft()

    async def _queued(self, line: JobLine, prepared: PreparedRequest) -> bool:
        """Queue a line; False if it is no longer the first of the claimed.

        If a limit refuses it, it waits again, with all of its app; it fails if no wait is enough.
        """
        try:
            await self._queue(line, prepared)
        except (LimitReached, TenantQueueFull) as refused:
            if line in self._claimed and isinf(refused.retry_after_s or 0.0):
                self._fail(line, LineAboveLimit(refused.message))
            else:
                await self._set_aside(line, refused)
        except (OverLimit, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001  the other lines run
            if line in self._claimed:  # else it was dropped meanwhile
                self._fail(line, error)
        return bool(self._claimed) and self._claimed[0] is line

    async def _set_aside(self, line: JobLine, refused: OverLimit) -> None:
        """Give all claimed lines of this one's app back, and pause the app."""
        app = line.request.caller.app_id
        self._paused.pause(app, refused.retry_after_s or 0.0)
        waiting = [each for each in self._claimed if each.request.caller.app_id == app]
        await self._source.release(waiting)
        for each in waiting:
            with suppress(ValueError):  # it was dropped meanwhile
                self._claimed.remove(each)
        log.info("batch_lines_over_limit", app=str(app), reason=refused.message)

    async def _queue(self, line: JobLine, prepared: PreparedRequest) -> None:
        states = await self._service.start_line(line.request, prepared, line.key)
        if line not in self._claimed:  # it was dropped meanwhile
            for state in states:
                self._service.cancel(state)
            return
        self._service.scheduler.pins.keep(states[0])
        needed = sum(_needed_tokens(state) for state in states)
        held = self._held[line] = _Held(line, states, needed)
        self._bound.queued(needed)
        held.follower = asyncio.create_task(self._follow(held))

    def _fail(self, line: JobLine, error: BaseException) -> None:
        """Report a line that cannot be queued; an error that was not foreseen is counted."""
        if not isinstance(error, LmaasError):
            self._faults["line"] += 1
            log.error("batch_line_failed", request=str(line.key.id), exc_info=error)
            error = GenerationFailed("the gateway failed to prepare the line; it has logged why")
        self._report(_Held(line, [], 0.0), LineOutcome(line, error=error))

    async def _follow(self, held: _Held) -> None:
        """Report a line once all its choices have ended."""
        for state in held.states:
            await state.wait_for_end()
        held.follower = None
        self._report(held, LineOutcome(held.line, held.states))

    def _drop(self, held: _Held) -> None:
        """End a line without an outcome."""
        assert held.follower is not None
        held.follower.cancel()
        held.follower = None
        del self._held[held.line]
        self._fewer.set()
        for state in held.states:
            self._service.cancel(state)

    def _report(self, held: _Held, outcome: LineOutcome) -> None:
        self._held[held.line] = held
        self._outcomes.append((held, outcome))
        self._reported.set()

    async def _write(self) -> None:
        """Write outcomes in groups until cancelled."""
        retry_s = RETRY_S
        while True:
            await self._reported.wait()
            self._reported.clear()
            began_s = time.monotonic()
            while len(self._outcomes) < FLUSH_LINES:
                left_s = began_s + FLUSH_S - time.monotonic()
                if left_s <= 0:
                    break
                await wait_for_event(self._reported, left_s)
                self._reported.clear()
            while self._outcomes:
                try:
                    await self._write_some()
                    retry_s = RETRY_S
                except Exception as error:  # noqa: BLE001  no outcome may be lost
                    log.warning("batch_outcomes_delayed", reason=repr(error), retry_s=retry_s)
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
            self.wake()
            if not self.lines:
                self._ended()

    async def _write_some(self) -> None:
        """Write the oldest outcomes; they stay here until they are written."""
        some = list(islice(self._outcomes, FLUSH_LINES))
        await self._source.finished([outcome for _, outcome in some])
        for held, _ in some:
            self._outcomes.popleft()
            del self._held[held.line]
        self._fewer.set()


def _needed_tokens(state: RequestState) -> float:
    """Tokens of KV memory that a choice needs of its own: its prompt's and the predicted ones."""
    shared = state.prefix.tokens if state.prefix else 0
    return len(state.prompt) - shared + state.prediction.median
