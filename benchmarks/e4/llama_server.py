"""llama.cpp's own server, and closed-loop clients over its HTTP API."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from benchmarks.e4.closed_loop import ClosedLoop
from benchmarks.e4.measures import LoadTrace
from benchmarks.e4.workload import CONTEXT_TOKENS
from benchmarks.engine.contestants.process import PausableProcess
from benchmarks.engine.workload import Request
from benchmarks.harness.paths import log_file
from benchmarks.harness.processes import end_process

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 120.0
EXIT_TIMEOUT_S: Final = 20.0
DATA: Final = b"data: "
UNKNOWN: Final = -1  # a token that was counted but not sent


class Part(Struct):
    """A part of a streamed answer; the last one has `stop` and counts all tokens."""

    tokens: list[int] = []
    stop: bool = False
    tokens_predicted: int = 0


_part = msgspec.json.Decoder(Part)


class LlamaServer(PausableProcess):
    """`llama-server` with `slots` slots, without its prompt cache."""

    def __init__(self, name: str, binary: Path, model: Path, *, slots: int, threads: int) -> None:
        self._port = _free_port()
        self._log = log_file(name).open("w")
        options: dict[str, object] = {
            "--model": model,
            "--host": HOST,
            "--port": self._port,
            "--parallel": slots,
            "--ctx-size": slots * CONTEXT_TOKENS,
            "--threads": threads,
            "--threads-batch": threads,
            "--cache-ram": 0,  # each round repeats the same prompts
        }
        words = [str(word) for option in options.items() for word in option]
        self._process = subprocess.Popen(
            [str(binary), *words, "--no-kv-unified", "--no-webui"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.pid = self._process.pid
        try:
            self._wait_until_ready()
        except RuntimeError:
            self.close()
            raise

    def serve(self, requests: list[Request], clients: int) -> LoadTrace:
        """Serve the requests. RuntimeError if one is not answered in full."""
        return asyncio.run(serve(self._port, requests, clients))

    def close(self) -> None:
        """End it."""
        self.resume()
        end_process(self._process, EXIT_TIMEOUT_S)
        self._log.close()

    def _wait_until_ready(self) -> None:
        end = monotonic() + START_TIMEOUT_S
        while not self._healthy():
            if self._process.poll() is not None or monotonic() > end:
                raise RuntimeError(f"llama-server did not start; see {self._log.name}")
            sleep(0.1)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"http://{HOST}:{self._port}/health").is_success
        except httpx.TransportError:
            return False


class LlamaServers:
    """`llama-server` once for each number of clients, with as many slots: unused slots slow it."""

    def __init__(
        self, name: str, binary: Path, model: Path, *, clients: Iterable[int], threads: int
    ) -> None:
        self._servers: dict[int, LlamaServer] = {}
        with ExitStack() as started:
            started.callback(self.close)
            for slots in clients:
                label = f"{name}-{slots}"
                self._servers[slots] = LlamaServer(
                    label, binary, model, slots=slots, threads=threads
                )
            started.pop_all()

    def serve(self, requests: list[Request], clients: int) -> LoadTrace:
        """Serve the requests by the server for that many clients. RuntimeError on failure."""
        return self._servers[clients].serve(requests, clients)

    def pause(self) -> None:
        """Suspend all."""
        for server in self._servers.values():
            server.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        for server in self._servers.values():
            server.resume()

    def close(self) -> None:
        """End all."""
        with ExitStack() as stack:
            for server in self._servers.values():
                stack.callback(server.close)


async def serve(port: int, requests: list[Request], clients: int) -> LoadTrace:
    """Send the requests from that many clients. RuntimeError if one is not answered in full."""
    loop = ClosedLoop(requests)
    await asyncio.gather(*(_client(port, loop) for _ in range(clients)))
    assert loop.saturated_s is not None
    return LoadTrace(loop.exchanges, loop.saturated_s)


async def _client(port: int, loop: ClosedLoop) -> None:
    while (request := loop.next()) is not None:
        received = 0
        async for part in _parts(port, request):
            # Tokens that end within a character are held back; the last part counts them too.
            held = part.tokens_predicted - received
            tokens = [UNKNOWN] * held if part.stop else part.tokens
            received += len(tokens)
            if tokens:
                loop.received(request.id, tokens)
        if received < request.tokens:
            raise RuntimeError(f"llama-server sent {received} of {request.tokens} tokens")


async def _parts(port: int, request: Request) -> AsyncIterator[Part]:
    """The parts of a streamed answer, with as little work as an HTTP client can do."""
    reader, writer = await asyncio.open_connection(HOST, port)
    body = msgspec.json.encode(_completion(request))
    head = f"POST /completion HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"llama-server answered {status.decode().strip()}")
    while line := await reader.readline():
        if line.startswith(DATA):
            yield _part.decode(line[len(DATA) :])
    writer.close()


def _completion(request: Request) -> dict[str, object]:
    """Greedy, of a fixed length, with no sampler that would cost time."""
    return {
        "prompt": request.prompt,
        "n_predict": request.tokens,
        "ignore_eos": True,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": False,
        "samplers": ["top_k"],
        "top_k": 1,
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port
