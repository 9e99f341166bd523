"""Hostile clients, one a run: `python -m benchmarks.r1.hostile_clients NAME`.

`BASE_URL` and `KEY` come from the environment. Each is bounded in time and in what it sends; at the
end it prints how often it got which status, as JSON.
"""

import asyncio
import gzip
import json
import os
import random
import resource
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

DURATION_S: Final = 8.0
MODEL: Final = "lmaas-demo"
CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
NO_ANSWER: Final = "none"
SMALL_BUFFER: Final = 4096  # bytes; of a client that does not read

Outcomes: TypeAlias = Counter[str]
Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Target:
    """The gateway that is attacked, and the answers so far."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._key = key
        self.outcomes = Outcomes()

    @asynccontextmanager
    async def connection(self, *, buffer: int | None = None) -> AsyncIterator[Connection]:
        """One connection, with a receive buffer of this many bytes. OSError if it is refused."""
        made = socket.socket()
        made.setblocking(False)
        if buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            await asyncio.get_running_loop().sock_connect(made, (self._host, self._port))
            reader, writer = await asyncio.open_connection(sock=made, limit=buffer or 1 << 16)
        except BaseException:
            made.close()
            raise
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def head(self, path: str, length: int, *more: str) -> bytes:
        """The head of a POST with a key."""
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: gateway",
            f"Authorization: Bearer {self._key}",
            "Content-Type: application/json",
            "Connection: close",
            f"Content-Length: {length}",
            *more,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    async def post(self, path: str, body: bytes, *more: str) -> None:
        """Send a request and count its status."""
        await self.send(self.head(path, len(body), *more) + body)

    async def send(self, data: bytes) -> None:
        """Send these bytes on a connection of their own, and count the status of the answer."""
        status = NO_ANSWER
        with suppress(OSError):
            async with self.connection() as (reader, writer):
                with suppress(OSError):
                    writer.write(data)
                    await writer.drain()
                status = (await reader.readline()).decode("latin-1")[9:12] or NO_ANSWER
                while await reader.read(1 << 16):
                    pass
        self.outcomes[status] += 1


async def again(work: Callable[[], Awaitable[None]], clients: int) -> None:
    """Several clients do the same again and again; they end with the run."""

    async def client() -> None:
        while True:
            await work()

    await asyncio.gather(*(client() for _ in range(clients)))


def chat(*contents: Any, **more: Any) -> bytes:
    """The body of a chat request with one user message for each content."""
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"model": MODEL, "max_tokens": 1, "messages": messages, **more}).encode()


def text(prompt: Any, **more: Any) -> bytes:
    """The body of a text completion."""
    return json.dumps({"model": MODEL, "max_tokens": 1, "prompt": prompt, **more}).encode()


def noise(characters: int) -> str:
    """Random letters, which take most tokens and most time to encode."""
    return "".join(random.Random(1).choices("abcdefghij klmnop.!?\n", k=characters))


async def huge_header(target: Target) -> None:
    """Headers of 40 MB, four at a time."""
    data = b"GET / HTTP/1.1\r\nX: " + b"x" * (40 << 20) + b"\r\n\r\n"
    await again(lambda: target.send(data), 4)


async def many_headers(target: Target) -> None:
    """50,000 headers, four at a time."""
    lines = b"".join(b"x-%d: 1\r\n" % number for number in range(50_000))
    data = b"GET /health/live HTTP/1.1\r\nHost: gateway\r\n" + lines + b"\r\n"
    await again(lambda: target.send(data), 4)


async def _drip(target: Target, head: bytes, drop: bytes, clients: int) -> None:
    async def client() -> None:
        with suppress(OSError):
            async with target.connection() as (reader, writer):
                writer.write(head)
                while not reader.at_eof():
                    writer.write(drop)
                    await writer.drain()
                    await asyncio.sleep(0.2)
        await asyncio.sleep(0.2)

    await again(client, clients)


async def slow_headers(target: Target) -> None:
    """300 clients that send a byte of their headers five times a second."""
    await _drip(target, b"GET / HTTP/1.1\r\nX: ", b"x", 300)


async def slow_bodies(target: Target) -> None:
    """300 clients that send a byte of their body five times a second."""
    await _drip(target, target.head(CHAT, 100_000), b" ", 300)


async def empty_messages(target: Target) -> None:
    """300,000 empty messages, in 9.9 MB, four at a time."""
    body = chat(*[""] * 300_000)
    await again(lambda: target.post(CHAT, body), 4)


async def many_messages(target: Target) -> None:
    """3,900 messages, the most that is decoded, 16 at a time."""
    body = chat(*["king"] * 3_900)
    await again(lambda: target.post(CHAT, body), 16)


async def tools_of_lists(target: Target) -> None:
    """`tools` of 5 million empty lists, and of as many as are decoded, four at a time each."""
    huge, allowed = chat("king", tools=[[]] * 5_000_000), chat("king", tools=[[]] * 9_000)
    await asyncio.gather(
        again(lambda: target.post(CHAT, huge), 4), again(lambda: target.post(CHAT, allowed), 4)
    )


async def long_prompts(target: Target) -> None:
    """128 prompts of 7,000 characters in each request, eight at a time."""
    body = text([noise(7_000)] * 128)
    await again(lambda: target.post(TEXT, body), 8)


async def fitting_prompts(target: Target) -> None:
    """128 prompts of 1,500 characters in each request, eight at a time."""
    body = text([f"{number} king " * 150 for number in range(128)])
    await again(lambda: target.post(TEXT, body), 8)


async def large_prompts(target: Target) -> None:
    """Prompts of 1 MB, 16 at a time."""
    body = chat(noise(1_000_000))
    await again(lambda: target.post(CHAT, body), 16)


async def flood(target: Target) -> None:
    """2,000 requests of one key at once, of eight answers each."""
    body = chat("brave queen", n=8, max_tokens=200)
    await asyncio.gather(*(target.post(CHAT, body) for _ in range(2_000)))


async def slow_readers(target: Target) -> None:
    """100 streams with log probabilities whose clients read nothing."""
    body = chat("king", stream=True, n=2, max_tokens=500, logprobs=True, top_logprobs=20)

    async def client() -> None:
        async with target.connection(buffer=SMALL_BUFFER) as (_, writer):
            writer.write(target.head(CHAT, len(body)) + body)
            await asyncio.sleep(DURATION_S)

    await again(client, 100)


async def scored_answers(target: Target) -> None:
    """Eight answers with 20 log probabilities for each token, four requests at a time."""
    body = chat("king", n=8, max_tokens=400, logprobs=True, top_logprobs=20)
    await again(lambda: target.post(CHAT, body), 4)


async def gzip_bombs(target: Target) -> None:
    """300 MB of spaces in 300 kB, 16 at a time."""
    body = gzip.compress(b" " * (300 << 20))
    await again(lambda: target.post(CHAT, body, "Content-Encoding: gzip"), 16)


async def many_connections(target: Target) -> None:
    """1,500 connections that send nothing."""

    async def client() -> None:
        with suppress(OSError):
            async with target.connection() as (reader, _):
                await reader.read()
        await asyncio.sleep(1)

    await again(client, 1_500)


CLIENTS: Final[dict[str, Callable[[Target], Coroutine[Any, Any, None]]]] = {
    client.__name__: client
    for client in (
        huge_header,
        many_headers,
        slow_headers,
        slow_bodies,
        empty_messages,
        many_messages,
        tools_of_lists,
        long_prompts,
        fitting_prompts,
        large_prompts,
        flood,
        slow_readers,
        scored_answers,
        gzip_bombs,
        many_connections,
    )
}


async def attack(name: str, target: Target) -> None:
    """Run one client for `DURATION_S`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DURATION_S):
            await CLIENTS[name](target)


def main() -> None:
    """Run the client that the command line names; print its outcomes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    target = Target(os.environ["BASE_URL"], os.environ["KEY"])
    asyncio.run(attack(sys.argv[1], target))
    print(json.dumps(target.outcomes))


if __name__ == "__main__":
    main()
