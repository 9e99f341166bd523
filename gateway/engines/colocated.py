"""The client of the engine process on this machine: two long-lived uses of one Unix socket."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Sequence as Many
from contextlib import suppress
from typing import Final
from uuid import uuid4

import httpx
import msgspec
import structlog

from engine.protocol import (
    Cancel,
    EngineInfo,
    Event,
    Heartbeat,
    Hello,
    Operation,
    Refused,
    Sequence,
    SequenceId,
    Step,
    Submission,
    SubmitBatch,
    Submitted,
)
from gateway.engines.interface import EngineListener

SILENCE_S: Final = 5.0  # five heartbeats missed
RETRY_S: Final = 0.1
STALE_EPOCH: Final = 409

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

    def __init__(self, socket: str, listener: EngineListener) -> None:
        self._socket = socket
        self._listener = listener
        self._session = ""
        self._info: EngineInfo | None = None
        self._seen = 0
        self._pending: list[Operation] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def info(self) -> EngineInfo | None:
        """What it serves; None while it does not answer."""
        return self._info

    async def start(self) -> None:
        """Begin to connect; `engine_ready` tells when the engine is there."""
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
        """Follow the engine for ever, over losses and restarts."""
        async with self._client(SILENCE_S) as client:
            while True:
                try:
                    await self._follow(client)
                except (httpx.HTTPError, _EngineChangedError, msgspec.DecodeError) as error:
                    await self._lose(client, error)
                    await asyncio.sleep(RETRY_S)

    async def _lose(self, client: httpx.AsyncClient, error: Exception) -> None:
        """A broken stream is resumed where the same engine still answers; else all is lost."""
        if self._info is None:
            return
        same = False
        if not isinstance(error, _EngineChangedError):
            with suppress(httpx.HTTPError, msgspec.DecodeError):
                same = (await self._ask_info(client)).epoch == self._info.epoch
        if not same:
            log.warning("engine_lost", reason=str(error) or type(error).__name__)
            self._info = None
            self._pending.clear()
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
                    self._listener.engine_stepped(event)
            case Heartbeat() | Hello():
                pass

    async def _send(self) -> None:
        """Post what is pending; what arrives meanwhile rides in the next submission."""
        async with self._client(30.0) as client:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._info is None or not self._pending:
                    continue
                operations, self._pending = self._pending, []
                try:
                    await self._submit(client, self._info.epoch, operations)
                except httpx.HTTPError as error:
                    log.warning("submission_failed", reason=repr(error))
                    await self._repeat(operations)

    async def _repeat(self, operations: list[Operation]) -> None:
        """Submitting is idempotent, so a submission whose fate is unknown is sent again."""
        await asyncio.sleep(RETRY_S)
        if self._info is not None:
            self._pending = operations + self._pending
            self._wake.set()

    async def _submit(
        self, client: httpx.AsyncClient, epoch: str, operations: list[Operation]
    ) -> None:
        body = _encoder.encode(Submission(self._session, epoch, operations))
        response = await client.post("/submit", content=body)
        if response.status_code == STALE_EPOCH:
            return  # the event reader meets the new engine and everything is submitted again
        if response.is_client_error:
            log.error("submission_refused", status=response.status_code, body=response.text[:500])
            self._listener.engine_refused(_all_refused(operations, response.text))
            return
        response.raise_for_status()
        refused = _submitted_decoder.decode(response.content).refused
        if refused:
            self._listener.engine_refused(refused)


def _all_refused(operations: list[Operation], reason: str) -> list[Refused]:
    return [
        Refused(sequence.id, reason)
        for operation in operations
        if isinstance(operation, SubmitBatch)
        for sequence in operation.sequences
    ]


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Whole lines of the body, as bytes."""
    rest = b""
    async for chunk in response.aiter_raw():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
    raise httpx.RemoteProtocolError("the event stream ended")
