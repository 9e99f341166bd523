"""One HTTP/1.1 connection to a Unix socket, for the many small messages of an engine.

A general client takes several times the processor time. httpx, on uvloop, also sets the result of
a read that has been cancelled, if data comes in the same turn of the loop.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Final, Self

from httptools import HttpParserError, HttpResponseParser

READ_BYTES: Final = 1 << 18


class HttpResponse:
    """A response whose body is read as it comes. OSError where it ends early or does not come."""

    def __init__(self, reader: StreamReader, read_s: float) -> None:
        self.status = 0
        self.complete = False
        self.reusable = False  # whether its connection may be used again
        self._reader = reader
        self._read_s = read_s
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._parts: list[bytes] = []

    async def begin(self) -> None:
        """Return once the status is known."""
        while not self.status:
            await self._receive()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, in parts as they come."""
        while self._parts or not self.complete:
            if not self._parts:
                await self._receive()
            parts, self._parts = self._parts, []
            for part in parts:
                yield part

    async def content(self) -> bytes:
        """The whole body."""
        return b"".join([part async for part in self.parts()])

    async def _receive(self) -> None:
        async with asyncio.timeout(self._read_s):
            data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError("the engine closed the connection")
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise ConnectionError(f"the engine's answer is not HTTP: {error}") from error
        if self.complete:
            self._parser = None  # which refers to this

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        assert self._parser is not None
        self.complete, self.reusable = True, self._parser.should_keep_alive()


class HttpConnection:
    """Sends one request after another, on one connection as long as the server keeps it.

    A request whose response was not read to its end costs the connection. Each wait for the server
    takes at most `read_s`. OSError, of which ConnectionError and TimeoutError are kinds, where it
    does not answer.
    """

    def __init__(self, socket: str, read_s: float) -> None:
        self._socket = socket
        self._read_s = read_s
        self._streams: tuple[StreamReader, StreamWriter] | None = None
        self._response: HttpResponse | None = None

    async def __aenter__(self) -> Self:
        """It connects with the first request."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = self._response = None

    async def request(self, method: str, target: str, body: bytes = b"") -> HttpResponse:
        """Send a request; returns its response once the status has come."""
        reader, writer = await self._connected()
        head = f"{method} {target} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(body)}\r\n\r\n"
        self._response = response = HttpResponse(reader, self._read_s)
        writer.write(head.encode() + body)
        async with asyncio.timeout(self._read_s):
            await writer.drain()
        await response.begin()
        return response

    async def _connected(self) -> tuple[StreamReader, StreamWriter]:
        if self._streams is not None:
            reader, writer = self._streams
            unread = self._response is not None and not self._response.reusable
            if unread or reader.at_eof() or writer.is_closing():
                self.close()
        if self._streams is None:
            async with asyncio.timeout(self._read_s):
                self._streams = await asyncio.open_unix_connection(self._socket)
        return self._streams
