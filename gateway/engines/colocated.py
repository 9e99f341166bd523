"""The client of the engine process on this machine: two long-lived uses of one Unix socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from collections.abc import Sequence as Many
from contextlib import suppress
from typing import Final
from uuid import uuid4

import httpx
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
    Refused,
    Resume,
    Revise,
    Sequence,
    SequenceId,
    SetMode,
    Step,
    Submission,
    SubmitBatch,
    Submitted,
    Unpin,
)
from gateway.engines.interface import EngineListener

SILENCE_S: Final = 5.0  # five heartbeats missed
RETRY_S: Final = 0.1
SUBMIT_S: Final = 30.0
SLOW_STEP_S: Final = 10.0  # a step under way for longer is worth a word
CONFLICT: Final = 409  # another epoch, or another session

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_submitted_decoder = msgspec.json.Decoder(Submitted)
_info_decoder = msgspec.json.Decoder(EngineInfo)


class _EngineChangedError(Exception):
    """The engine is not the one whose events we read, or some of them are gone."""


class ColocatedEngine:
    """Reads one endless event stream and posts operations, one submission in flight.

    A new engine, or a gap in the events, starts a new session: the engine forgets the old
    session's sequences, and the listener submits again what has not finished.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._listener: EngineListener
        self._session = ""
        self._info: EngineInfo | None = None
        self._seen = 0
        self.busy_s = 0.0
        self._slow = False
        self._pending: list[Operation] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, listener: EngineListener) -> None:
        """Begin to connect; the listener hears of the engine once it is there."""
        self._listener = listener
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]

    async def close(self) -> None:
        """Drop both connections; the engine cancels what still runs."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def submit(self, batch: str, sequences: Many[Sequence]) -> None:
        """Hand over a batch with the next submission."""
        self._post(SubmitBatch(batch, list(sequences)))

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences with the next submission."""
        self._post(Cancel(list(ids)))

    def revise(self, remaining: Mapping[SequenceId, int]) -> None:
        """Advise how many more tokens each sequence is now expected to generate."""
        self._post(Revise(dict(remaining)))

    def pause(self) -> None:
        """Let the engine compute nothing until `resume`."""
        self._post(Pause())

    def drain(self) -> None:
        """Let the engine refuse new sequences until `resume`."""
        self._post(Drain())

    def resume(self) -> None:
        """End a pause or a drain."""
        self._post(Resume())

    def set_mode(self, mode: Mode) -> None:
        """Batch by iteration, or in lock step."""
        self._post(SetMode(mode))

    def pin(self, name: str, tokens: Many[int], salt: str) -> None:
        """Keep the KV memory of a prefix of this salt under a name of ours."""
        self._post(Pin(name, list(tokens), salt))

    def unpin(self, names: Many[str]) -> None:
        """Let pinned prefixes go."""
        self._post(Unpin(list(names)))

    def _post(self, operation: Operation) -> None:
        if self._info is not None:
            self._pending.append(operation)
            self._wake.set()

    def _client(self, read_s: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=self._socket),
            base_url="http://engine",
            timeout=httpx.Timeout(SILENCE_S, read=read_s),
        )

    async def _read(self) -> None:
        """Follow the engine for ever, over losses and restarts, and whatever else goes wrong."""
        async with self._client(SILENCE_S) as client:
            while True:
                try:
                    await self._follow(client)
                except (httpx.HTTPError, msgspec.DecodeError) as error:
                    if not await self._same_engine(client):
                        self._lose(error)
                except _EngineChangedError as error:
                    self._lose(error)
                except Exception as error:
                    log.exception("event_reader_failed")
                    self._lose(error)
                await asyncio.sleep(RETRY_S)

    async def _same_engine(self, client: httpx.AsyncClient) -> bool:
        """Whether the engine whose stream broke still answers, so that the stream can go on."""
        if self._info is None:
            return False
        with suppress(httpx.HTTPError, msgspec.DecodeError):
            return (await self._ask_info(client)).epoch == self._info.epoch
        return False

    def _lose(self, error: Exception) -> None:
        if self._info is None:
            return
        log.warning("engine_lost", reason=str(error) or type(error).__name__)
        self._info = None
        self._pending.clear()
        self._busy(0.0)
        self._listener.engine_lost()

    async def _ask_info(self, client: httpx.AsyncClient) -> EngineInfo:
        response = await client.get("/info")
        response.raise_for_status()
        return _info_decoder.decode(response.content)

    async def _follow(self, client: httpx.AsyncClient) -> None:
        fresh = self._info is None
        info = self._info or await self._ask_info(client)
        if fresh:
            self._session, self._seen = uuid4().hex, 0
        async with client.stream(
            "GET", "/events", params={"session": self._session, "after": self._seen}
        ) as response:
            if response.status_code == CONFLICT:
                raise _EngineChangedError("another session took the engine over")
            response.raise_for_status()
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
                self._take(_event_decoder.decode(line))

    def _take(self, event: Event) -> None:
        match event:
            case Step():
                if event.number > self._seen:
                    self._seen = event.number
                    self._busy(0.0)
                    self._listener.engine_stepped(event)
            case Heartbeat(busy_s=busy_s):
                self._busy(busy_s)
            case Hello():
                pass

    def _busy(self, busy_s: float) -> None:
        """Note for how long a step has been under way; say once that one is slow."""
        slow = busy_s > SLOW_STEP_S
        if slow and not self._slow:
            log.warning("engine_step_slow", busy_s=busy_s)
        self.busy_s, self._slow = busy_s, slow

    async def _send(self) -> None:
        """Post what is pending; what arrives meanwhile rides in the next submission."""
        async with self._client(SUBMIT_S) as client:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._info is None or not self._pending:
                    continue
                operations, self._pending = self._pending, []
                submission = Submission(self._session, self._info.epoch, operations)
                try:
                    await self._submit(client, submission)
                except (httpx.HTTPError, msgspec.DecodeError) as error:
                    log.warning("submission_failed", reason=repr(error))
                    await self._repeat(submission)

    async def _repeat(self, submission: Submission) -> None:
        """Submitting is idempotent, so a submission whose fate is unknown is sent again.

        Not into another session: that one submits anew what has not finished.
        """
        await asyncio.sleep(RETRY_S)
        if self._info is not None and self._session == submission.session:
            self._pending = submission.operations + self._pending
            self._wake.set()

    async def _submit(self, client: httpx.AsyncClient, submission: Submission) -> None:
        response = await client.post("/submit", content=_encoder.encode(submission))
        if response.status_code == CONFLICT:
            return  # the event reader meets the change and everything is submitted again
        if response.is_client_error:
            await self._isolate(client, submission, response)
            return
        response.raise_for_status()
        refused = _submitted_decoder.decode(response.content).refused
        if refused:
            self._listener.engine_refused(refused)

    async def _isolate(
        self, client: httpx.AsyncClient, submission: Submission, response: httpx.Response
    ) -> None:
        """One operation the engine cannot read fails alone; the others are sent one by one."""
        if len(submission.operations) > 1:
            for operation in submission.operations:
                await self._submit(
                    client, msgspec.structs.replace(submission, operations=[operation])
                )
            return
        log.error("submission_refused", status=response.status_code, reason=response.text[:500])
        (operation,) = submission.operations
        if isinstance(operation, SubmitBatch):
            self._listener.engine_refused(
                [Refused(sequence.id, response.text) for sequence in operation.sequences]
            )


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Whole lines of the body, as bytes."""
    rest = b""
    async for chunk in response.aiter_raw():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
    raise httpx.RemoteProtocolError("the event stream ended")
