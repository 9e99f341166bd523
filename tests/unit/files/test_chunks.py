"""Bytes are cut into chunks and joined to lines."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from gateway.files.chunks import CHUNK_BYTES, ChunkWriter, Contents, lines_of

PIECES = st.lists(st.binary(max_size=20), max_size=12)
TEXTS = st.lists(st.text("ab\r\n", max_size=12).map(str.encode), max_size=8)


async def each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def lines(pieces: list[bytes], max_line_bytes: int) -> list[bytes]:
    async def read() -> list[bytes]:
        return [line async for line in lines_of(each(pieces), max_line_bytes)]

    return asyncio.run(read())


def written(pieces: list[bytes]) -> tuple[list[bytes], Contents]:
    stored: list[bytes] = []

    async def put(number: int, data: bytes) -> None:
        assert number == len(stored)
        stored.append(data)

    async def write() -> Contents:
        writer = ChunkWriter(put)
        for piece in pieces:
            await writer.write(piece)
        return await writer.finish()

    return stored, asyncio.run(write())


@given(PIECES, st.integers(0, 3))
def test_chunks_are_the_bytes_that_were_written(pieces: list[bytes], large: int) -> None:
    whole = [*pieces, *[b"x" * (CHUNK_BYTES - 1)] * large]
    stored, contents = written(whole)
    data = b"".join(whole)
    assert b"".join(stored) == data
    assert [len(chunk) for chunk in stored[:-1]] == [CHUNK_BYTES] * (len(stored) - 1)
    assert all(stored)
    assert contents == Contents(len(data), hashlib.sha256(data).digest())


def test_a_piece_larger_than_a_chunk_is_cut() -> None:
    stored, _ = written([b"x" * (3 * CHUNK_BYTES + 1)])
    assert [len(chunk) for chunk in stored] == [CHUNK_BYTES] * 3 + [1]


@given(TEXTS, st.integers(0, 6))
def test_lines_are_those_of_the_whole_text(pieces: list[bytes], longest: int) -> None:
    whole = b"".join(pieces).split(b"\n")
    if not whole[-1]:
        whole.pop()
    plain = [line.removesuffix(b"\r") for line in whole]
    found = lines(pieces, longest)
    assert len(found) == len(plain)
    for line, expected in zip(found, plain, strict=True):
        if len(expected) <= longest:
            assert line == expected
        else:
            assert len(line) == longest + 1
            assert expected.startswith(line) or expected + b"\r" == line


def test_a_line_without_end_is_not_collected() -> None:
    most = 0

    async def read() -> None:
        nonlocal most
        async for line in lines_of(each([b"x" * 1000] * 1000), 10):
            most = max(most, len(line))

    asyncio.run(read())
    assert most == 11
