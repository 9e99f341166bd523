"""The three engines as servers of closed-loop clients; each uses no CPU while paused."""

from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.e4.closed_loop import ClosedLoop, Exchange
from benchmarks.e4.measures import LoadTrace
from benchmarks.engine.client import EngineProcess
from benchmarks.engine.contestants.process import PausableProcess, PipedContestant
from benchmarks.engine.installation import vllm_environment, vllm_python
from benchmarks.engine.workload import Request
from engine.protocol import Sequence, Step

KV_TOKENS: Final = 65_536  # all requests fit at once at any page size: nothing is preempted


class Server(Protocol):
    """An engine that serves closed-loop clients."""

    def serve(self, requests: list[Request], clients: int) -> LoadTrace:
        """Serve the requests to that many clients. RuntimeError on failure."""

    def pause(self) -> None:
        """Suspend it."""

    def resume(self) -> None:
        """Undo `pause`."""

    def close(self) -> None:
        """End it."""


class OurServer(PausableProcess):
    """Our engine process, driven over its socket like by the gateway."""

    def __init__(self, name: str, folder: Path, *, dtype: str, threads: int) -> None:
        self._engine = EngineProcess(
            name,
            folder,
            engine_threads=threads,
            engine_dtype=dtype,
            kv_tokens=KV_TOKENS,
            prefix_sharing=0,  # each round repeats the same prompts
        )
        self.pid = self._engine.process.pid
        self._engine.wait_until_ready()

    def serve(self, requests: list[Request], clients: int) -> LoadTrace:
        """Serve the requests. RuntimeError if one is refused or fails."""
        with self._engine.counting() as counted, self._engine.session() as session:
            loop = ClosedLoop(requests)
            sending = loop.begin(clients)
            while not loop.done:
                if sending and session.submit([_sequence(request) for request in sending]):
                    raise RuntimeError("the engine refused a request")
                match next(session.events):
                    case Step() as step:
                        sending = _next_requests(loop, step)
                    case _:
                        sending = []
        return _trace(loop, counted)

    def close(self) -> None:
        """End it."""
        self.resume()
        self._engine.close()


class VllmServer:
    """vLLM's engine, driven by a process in its own environment."""

    def __init__(self, name: str, folder: Path, *, dtype: str, threads: int) -> None:
        module = "benchmarks.e4.vllm_process"
        command = [str(vllm_python()), "-m", module, str(folder), dtype]
        self._process = PipedContestant(name, command, vllm_environment(threads))
        self.pause, self.resume = self._process.pause, self._process.resume
        self.close = self._process.close

    def serve(self, requests: list[Request], clients: int) -> LoadTrace:
        """Serve the requests; the process measures the times."""
        tasks = [(request.id, request.prompt, request.tokens) for request in requests]
        answer: dict[str, Any] = self._process.ask({"clients": clients, "requests": tasks})
        exchanges = {name: Exchange(*fields) for name, fields in answer["exchanges"].items()}
        return LoadTrace(exchanges, answer["saturated_s"])


def _next_requests(loop: ClosedLoop, step: Step) -> list[Request]:
    """The requests of clients whose request ended in a step."""
    for finish in step.finished:
        if finish.reason != "length":
            raise RuntimeError(f"{finish.id} ended by {finish.reason}: {finish.message}")
    ended = [name for name, tokens in step.tokens.items() if loop.received(name, tokens)]
    return [request for request in (loop.next() for _ in ended) if request]


def _trace(loop: ClosedLoop, counted: dict[str, float]) -> LoadTrace:
    assert loop.saturated_s is not None
    return LoadTrace(loop.exchanges, loop.saturated_s, counted)


def _sequence(request: Request) -> Sequence:
    return Sequence(request.id, request.prompt, max_tokens=request.tokens, reserve=request.tokens)
