"""The client of the engine process on this machine: two connections over one Unix socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from collections.abc import Sequence as Many
from contextlib import suppress
from typing import Final
from uuid import uuid4

import msgspec
import structlog

from engine.protocol import (
    Cancel,
    Drain,
    EngineInfo,
    Event,
    Heartbeat,
    Hello,
    Mode,
    Operation,
    Pause,
    Pin,
    Preempt,
    Refused,
    Resume,
    Revise,
    Sequence,
    SequenceId,
    SetMode,
    Starting,
    Step,
    Submission,
    SubmitBatch,
    Submitted,
    Unpin,
)
from gateway.engines.http_connection import HttpConnection, HttpResponse
from gateway.engines.interface import EngineListener

EVENT_TIMEOUT_S: Final = 5.0  # five missed heartbeats
RETRY_DELAY_S: Final = 0.1
MAX_BROKEN: Final = 20  # streams in a row without an event; then the engine is lost
SUBMIT_TIMEOUT_S: Final = 30.0
SLOW_STEP_S: Final = 10.0  # a longer step is logged
OK: Final = 200
STARTING: Final = 503
CLIENT_ERRORS: Final = range(400, 500)
CONFLICT: Final = 409  # the engine has another epoch or another session

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_submitted_decoder = msgspec.json.Decoder(Submitted)
_info_decoder = msgspec.json.Decoder(EngineInfo)
_starting_decoder = msgspec.json.Decoder(Starting)


class _EngineChangedError(Exception):
    """The engine was replaced or taken over, or events were lost."""


class _EngineStartingError(ConnectionError):
    """The engine loads its model."""

    def __init__(self, starting: Starting) -> None:
        super().__init__(f"the engine starts: {starting.phase}")
        self.starting = starting


class ColocatedEngine:
    """Reads the engine's event stream and posts operations, one submission at a time.

    A new engine or a gap in the events starts a new session: the engine drops the sequences of the
    old one, and the listener submits the unfinished ones again.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._listener: EngineListener
        self._session = ""
        self._info: EngineInfo | None = None
        self._seen = 0
        self._broken = 0  # streams that broke in a row, without an event
        self.busy_s = 0.0
        self._slow = False
        self._pending: list[Operation] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, listener: EngineListener) -> None:
        """Start to connect; the listener is notified once the engine is connected."""
        self._listener = listener
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]

    async def close(self) -> None:
        """Close both connections; the engine cancels running sequences."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def submit(self, batch: str, sequences: Many[Sequence], pins: Many[Pin] = ()) -> None:
        """Submit a batch; `pins` are made before it starts."""
        self._post(SubmitBatch(batch, list(sequences), list(pins)))

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences."""
        self._post(Cancel(list(ids)))

    def revise(
        self, remaining: Mapping[SequenceId, int], preempt_first: Mapping[SequenceId, int]
    ) -> None:
        """Update expected remaining tokens and `preempt_first` of the sequences named."""
        self._post(Revise(dict(remaining), dict(preempt_first)))

    def preempt(self, ids: Many[SequenceId]) -> None:
        """Preempt these sequences before the engine's next step."""
        self._post(Preempt(list(ids)))

    def pause(self) -> None:
        """Stop computation until `resume`."""
        self._post(Pause())

    def drain(self) -> None:
        """Refuse new sequences until `resume`."""
        self._post(Drain())

    def resume(self) -> None:
        """End a pause or a drain."""
        self._post(Resume())

    def set_mode(self, mode: Mode) -> None:
        """Batch per step (`continuous`) or statically (`lockstep`)."""
        self._post(SetMode(mode))

    def pin(self, name: str, tokens: Many[int], salt: str) -> None:
        """Keep the KV pages of this salt's prefix cached under `name`."""
        self._post(Pin(name, list(tokens), salt))

    def unpin(self, names: Many[str]) -> None:
        """Release pinned prefixes."""
        self._post(Unpin(list(names)))

    def _post(self, operation: Operation) -> None:
        if self._info is not None:
            self._pending.append(operation)
            self._wake.set()

    async def _read(self) -> None:
        """Follow the engine until cancelled, through losses, restarts and unexpected errors."""
        async with HttpConnection(self._socket, EVENT_TIMEOUT_S) as connection:
            while True:
                try:
                    await self._follow(connection)
                except _EngineStartingError as error:
                    self._mark_lost(error)
                    self._listener.engine_starting(error.starting)
                except OSError as error:
                    self._broken += 1
                    if self._broken > MAX_BROKEN or not await self._same_engine(connection):
                        self._mark_lost(error)
                except (msgspec.DecodeError, _EngineChangedError) as error:  # not of the transport
                    self._mark_lost(error)
                except Exception as error:
                    log.exception("event_reader_failed")
                    self._mark_lost(error)
                await asyncio.sleep(RETRY_DELAY_S)

    async def _same_engine(self, connection: HttpConnection) -> bool:
        """Whether the engine still answers after its stream broke, so the stream can continue."""
        if self._info is None:
            return False
        with suppress(OSError, msgspec.DecodeError):
            return (await self._fetch_info(connection)).epoch == self._info.epoch
        return False

    def _mark_lost(self, error: Exception) -> None:
        if self._info is None:
            return
        reason = str(error) or type(error).__name__
        log.warning("engine_lost", socket=self._socket, reason=reason)
        self._info, self._broken = None, 0
        self._pending.clear()
        self._set_busy(0.0)
        self._listener.engine_lost()

    async def _fetch_info(self, connection: HttpConnection) -> EngineInfo:
        response = await connection.request("GET", "/info")
        content = await response.content()
        if response.status == STARTING:
            raise _EngineStartingError(_starting_decoder.decode(content))
        _check(response)
        return _info_decoder.decode(content)

    async def _follow(self, connection: HttpConnection) -> None:
        fresh = self._info is None
        info = self._info or await self._fetch_info(connection)
        if fresh:
            self._session, self._seen = uuid4().hex, 0
        target = f"/events?session={self._session}&after={self._seen}"
        response = await connection.request("GET", target)
        if response.status == CONFLICT:
            raise _EngineChangedError("another session took the engine over")
        _check(response)
        events = _lines(response)
        hello = _event_decoder.decode(await anext(events))
        if not isinstance(hello, Hello) or hello.epoch != info.epoch:
            raise _EngineChangedError("another engine answers")
        if fresh:
            self._seen = hello.number
            self._info = info
            self._listener.engine_ready(info)
        elif hello.lost:
            raise _EngineChangedError("events were lost")
        async for line in events:
            self._handle(_event_decoder.decode(line))
            self._broken = 0

    def _handle(self, event: Event) -> None:
        match event:
            case Step():
                if event.number > self._seen:
                    self._seen = event.number
                    self._set_busy(0.0)
                    self._listener.engine_stepped(event)
            case Heartbeat(busy_s=busy_s):
                self._set_busy(busy_s)
            case Hello():
                pass

    def _set_busy(self, busy_s: float) -> None:
        """Note the duration of the current step; log once per slow step."""
        slow = busy_s > SLOW_STEP_S
        if slow and not self._slow:
            log.warning("engine_step_slow", busy_s=busy_s)
        self.busy_s, self._slow = busy_s, slow

    async def _send(self) -> None:
        """Post pending operations; those that arrive meanwhile go into the next submission."""
        async with HttpConnection(self._socket, SUBMIT_TIMEOUT_S) as connection:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._info is None or not self._pending:
                    continue
                operations, self._pending = self._pending, []
                submission = Submission(self._session, self._info.epoch, operations)
                try:
                    await self._submit(connection, submission)
                except (OSError, msgspec.DecodeError) as error:
                    log.warning("submission_failed", reason=repr(error))
                    await self._resubmit(submission)

    async def _resubmit(self, submission: Submission) -> None:
        """Submit again: a submission is idempotent, so one with an unknown outcome is repeated.

        Only in the same session: a new session submits the unfinished sequences itself.
        """
        await asyncio.sleep(RETRY_DELAY_S)
        if self._info is not None and self._session == submission.session:
            self._pending = submission.operations + self._pending
            self._wake.set()

    async def _submit(self, connection: HttpConnection, submission: Submission) -> None:
        response = await connection.request("POST", "/submit", _encoder.encode(submission))
        content = await response.content()
        if response.status == CONFLICT:
            return  # the event reader detects the change, and its new session submits again
        if response.status in CLIENT_ERRORS:
            await self._submit_one_by_one(connection, submission, response.status, content)
            return
        _check(response)
        refused = _submitted_decoder.decode(content).refused
        if refused:
            self._listener.engine_refused(refused)

    async def _submit_one_by_one(
        self, connection: HttpConnection, submission: Submission, status: int, reason: bytes
    ) -> None:
        """Submit the operations one by one, so that only the unreadable one fails."""
        if len(submission.operations) > 1:
            for operation in submission.operations:
                await self._submit(
                    connection, msgspec.structs.replace(submission, operations=[operation])
                )
            return
        text = reason.decode(errors="replace")
        log.error("submission_refused", status=status, reason=text[:500])
        (operation,) = submission.operations
        if isinstance(operation, SubmitBatch):
            self._listener.engine_refused(
                [Refused(sequence.id, text) for sequence in operation.sequences]
            )


def _check(response: HttpResponse) -> None:
    """ConnectionError if the engine did not do what it was asked."""
    if response.status != OK:
        raise ConnectionError(f"the engine answered with status {response.status}")


async def _lines(response: HttpResponse) -> AsyncIterator[bytes]:
    """Complete lines of the body. ConnectionError when the stream ends."""
    rest = b""
    async for chunk in response.parts():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
    raise ConnectionResetError("the event stream ended")
