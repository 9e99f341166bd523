"""A file's bytes in chunks: cut on the way in, joined to lines on the way out."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import Final, TypeAlias

from msgspec import Struct

CHUNK_BYTES: Final = 256 << 10  # of every chunk but the last

Put: TypeAlias = Callable[[int, bytes], Awaitable[None]]  # stores a chunk under its number


class Contents(Struct, frozen=True):
    """What was written."""

    size_bytes: int
    sha256: bytes


class ChunkWriter:
    """Cuts what is written into chunks and passes each to `put` as soon as it is full."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._pending = bytearray()  # less than a chunk
        self._number = 0
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    async def write(self, data: bytes) -> None:
        """Append the data; returns once the chunks that it fills are stored."""
        self._digest.update(data)
        self.size_bytes += len(data)
        self._pending += data
        while len(self._pending) >= CHUNK_BYTES:
            chunk = bytes(memoryview(self._pending)[:CHUNK_BYTES])
            del self._pending[:CHUNK_BYTES]
            await self._store(chunk)

    async def finish(self) -> Contents:
        """Store the rest. Nothing may be written afterwards."""
        if self._pending:
            rest, self._pending = bytes(self._pending), bytearray()
            await self._store(rest)
        return Contents(self.size_bytes, self._digest.digest())

    async def _store(self, chunk: bytes) -> None:
        await self._put(self._number, chunk)
        self._number += 1


async def lines_of(
    chunks: AsyncIterable[bytes], max_line_bytes: int
) -> AsyncGenerator[bytes, None]:
    """The lines of a text in chunks, without their line ends; an empty last one is left out.

    Of a line that is longer than `max_line_bytes` the first `max_line_bytes` + 1 bytes are yielded,
    so that its length shows it, and the rest is skipped: no more than that and a chunk is held.
    """
    keep = max_line_bytes + 2  # enough to see a carriage return after the longest line
    line = bytearray()
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line += chunk[start : min(end, start + keep)]
            yield _cut(line, max_line_bytes)
            line.clear()
            start = end + 1
        if len(line) < keep:
            line += chunk[start : start + keep]
    if line:
        yield _cut(line, max_line_bytes)


def _cut(line: bytearray, max_line_bytes: int) -> bytes:
    """The line without a carriage return at its end, or what shows that it is too long."""
    whole = bytes(line[: max_line_bytes + 1])
    return whole.removesuffix(b"\r") if len(line) <= max_line_bytes + 1 else whole
