"""A small OpenAI-compatible server that answers as a test wants, over real sockets.

By default it behaves like vLLM with token ids: each prompt `[…, n]` is answered with n + 1, n + 2 …
up to `max_tokens`, one token an event. `script` has what it does with the next requests instead.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

VOCABULARY = 200
CONTEXT = 512
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0"} 1.0
vllm:num_requests_waiting{engine="0"} 0.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:num_preemptions_total{engine="0"} %d
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="64"} 1.0
"""

KINDS: dict[str, type] = {"cache_salt": str, "structured_outputs": dict}
Fault: TypeAlias = tuple[int, object, dict[str, str]]
IntervalRule: TypeAlias = Literal["known", "ignored", "refused"]
Answer: TypeAlias = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request and the connection to answer it on."""

    def __init__(
        self, writer: asyncio.StreamWriter, path: str, headers: Mapping[str, str], body: Any
    ) -> None:
        self.writer = writer
        self.path = path
        self.headers = headers
        self.body: dict[str, Any] = body or {}
        self.at_once = 1  # tokens that come together, after the first
        self.closes = False

    async def send(
        self, status: int, body: object, headers: Mapping[str, str] | None = None
    ) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await self.writer.drain()

    async def begin(self) -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def event(self, **choice: object) -> None:
        body = {"choices": [{"index": 0, "text": "", "finish_reason": None, **choice}]}
        await self.raw(b"data: " + json.dumps(body).encode() + b"\n\n")

    async def tokens(self, *ids: int) -> None:
        await self.event(token_ids=list(ids))

    async def end(self, reason: str | None = "length") -> None:
        if reason is not None:
            await self.event(token_ids=[], finish_reason=reason)
        await self.raw(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def cut(self) -> None:
        """Break the connection off."""
        self.closes = True
        self.writer.transport.abort()

    async def count(self, most: int | None = None) -> None:
        """Begin the usual answer: numbers from the prompt's last one on."""
        await self.begin()
        last, wanted = self.body["prompt"][-1], self.body["max_tokens"]
        ids = [(last + n + 1) % VOCABULARY for n in range(wanted if most is None else most)]
        await self.tokens(*ids[:1])
        for start in range(1, len(ids), self.at_once):
            await self.tokens(*ids[start : start + self.at_once])

    async def complete(self) -> None:
        if not self.body.get("stream"):
            ids = [(self.body["prompt"][-1] + 1) % VOCABULARY]
            await self.send(200, {"choices": [{"text": "x", "token_ids": ids}]})
            return
        await self.count()
        await self.end()


class OpenAiServer:
    """The server. `probed` counts the requests for its models; `seen` are the streams asked for."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [
            {"id": "model", "owned_by": "vllm", "max_model_len": CONTEXT}
        ]
        self.key: str | None = None
        self.metrics = True
        self.metrics_asked = asyncio.Event()
        self.metrics_allowed = asyncio.Event()  # their answers wait for it
        self.metrics_allowed.set()
        self.preemptions = 0
        self.script: list[Answer] = []
        self.seen: list[Exchange] = []
        self.probed = 0
        self.takes_priority = False
        self.intervals: IntervalRule = "ignored"
        self.ignored: set[str] = set()  # fields that it does not know
        self.fault_in = 0  # which of the next short requests gets a 500, from 1
        self.faults: list[Fault] = []  # next answers to short requests
        self.port = 0
        self.open = 0
        self.aborted = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and break those that are open."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        path = head[0].split()[1]
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        exchange = Exchange(writer, path, headers, json.loads(content) if content else None)
        await self._answer(exchange, reader)
        return not exchange.closes

    async def _answer(self, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        short = not exchange.body.get("stream")
        if self.faults and short:
            await exchange.send(*self.faults.pop(0))
        elif short and self._is_faulty():
            await exchange.send(500, "a moment")
        elif self.key and exchange.headers.get("authorization") != f"Bearer {self.key}":
            await exchange.send(401, {"error": {"message": "wrong key"}})
        elif exchange.path == "/v1/models":
            self.probed += 1
            await exchange.send(200, {"object": "list", "data": self.models})
        elif exchange.path == "/version":
            await exchange.send(200, {"version": "0.0.test"})
        elif exchange.path == "/metrics" and self.metrics:
            self.metrics_asked.set()
            await self.metrics_allowed.wait()
            await exchange.send(200, METRICS % self.preemptions)
        elif exchange.path == "/v1/completions":
            await self._completion(exchange, reader)
        else:
            await exchange.send(404, {"detail": "Not Found"})

    def _is_faulty(self) -> bool:
        """Whether it is the turn of the short request that fails."""
        turn = self.fault_in == 1
        self.fault_in = max(self.fault_in - 1, 0)
        return turn

    async def _completion(self, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        body = exchange.body
        if body.get("priority") and not self.takes_priority:
            await exchange.send(400, {"error": {"message": "no priority scheduling"}})
        elif not self._takes_interval(exchange):
            await exchange.send(400, {"error": {"message": "stream_interval"}})
        elif wrong := [n for n, kind in KINDS.items() if not isinstance(body.get(n, kind()), kind)]:
            if not self.ignored.issuperset(wrong):
                await exchange.send(400, {"error": {"message": f"{wrong} is of another type"}})
            else:
                await exchange.complete()
        elif not body.get("stream"):
            await exchange.complete()
        else:
            self.seen.append(exchange)
            answer = self.script.pop(0) if self.script else Exchange.complete
            self.open += 1
            gone = asyncio.ensure_future(_disconnected(reader))
            done = asyncio.ensure_future(answer(exchange))
            try:
                await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)
                self.aborted += not done.done()
            finally:
                self.open -= 1
                done.cancel()
                gone.cancel()
            if done.done() and not done.cancelled():
                done.result()
            else:
                exchange.closes = True

    def _takes_interval(self, exchange: Exchange) -> bool:
        """Whether the request's `stream_interval` is accepted; it is used if it is known."""
        interval = exchange.body.get("stream_interval")
        if interval is not None and self.intervals == "known":
            exchange.at_once = interval
        return interval is None or self.intervals == "ignored" or exchange.at_once == interval > 0


async def _disconnected(reader: asyncio.StreamReader) -> None:
    """Returns once the client has closed the connection."""
    while not reader.at_eof():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def openai_server() -> AsyncIterator[OpenAiServer]:
    """A running server."""
    server = OpenAiServer()
    await server.start()
    yield server
    await server.stop()
