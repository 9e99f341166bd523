"""The benchmark's end of the pipe: contestant processes, paused between their turns."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

import psutil

from benchmarks.engine.client import EngineProcess, RunTrace
from benchmarks.engine.workload import Request
from benchmarks.harness.paths import ROOT, log_file
from engine.protocol import Sequence

LOAD_TIMEOUT_S: Final = 600.0
ANSWER_TIMEOUT_S: Final = 1800.0
EXIT_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class TimedAnswers:
    """A contestant's time, and the tokens of each request in the requests' order."""

    wall_s: float
    tokens: list[list[int]]


class Contestant(Protocol):
    """A system that answers requests; uses no CPU while paused."""

    def answer(self, requests: list[Request]) -> TimedAnswers:
        """Answer all requests as fast as possible. RuntimeError on failure."""

    def pause(self) -> None:
        """Suspend it."""

    def resume(self) -> None:
        """Undo `pause`."""

    def close(self) -> None:
        """End it."""


class PausableProcess:
    """Drives the process `pid`, which uses no CPU while paused."""

    pid: int

    def pause(self) -> None:
        """Suspend the process and its children."""
        signal_tree(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume them."""
        signal_tree(self.pid, signal.SIGCONT)


class PipedContestant(PausableProcess):
    """A process that runs `benchmarks.engine.contestants.pipe`."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._log = log_file(name).open("w")
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        try:
            self._receive(LOAD_TIMEOUT_S)
        except RuntimeError:
            self.close()
            raise

    def answer(self, requests: list[Request]) -> TimedAnswers:
        """Answer all requests; the contestant measures the time."""
        received = self.ask([(request.prompt, request.tokens) for request in requests])
        return TimedAnswers(received["wall_s"], received["tokens"])

    def ask(self, message: object) -> dict[str, Any]:
        """Send a message and wait for the answer. RuntimeError on failure."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        return self._receive(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End the process and its children."""
        self.resume()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            signal_tree(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _receive(self, within_s: float) -> dict[str, Any]:
        """The next message. RuntimeError on a timeout or if the process ended."""
        assert self._process.stdout is not None
        end = monotonic() + within_s
        while not select.select([self._process.stdout], [], [], 1.0)[0]:
            if monotonic() > end:
                raise RuntimeError(f"{self._name} sent nothing for {within_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended; see {self._log.name}")
        message: dict[str, Any] = json.loads(line)
        return message


class EngineContestant(PausableProcess):
    """Our engine, driven over its socket."""

    def __init__(self, name: str, folder: Path, **settings: object) -> None:
        self._engine = EngineProcess(name, folder, **settings)
        self.pid = self._engine.process.pid
        self._engine.wait_until_ready()

    def answer(self, requests: list[Request]) -> TimedAnswers:
        """Answer all requests. RuntimeError if a prompt was not computed in this run."""
        trace = self._engine.run([_sequence(request) for request in requests])
        _check(requests, trace)
        return TimedAnswers(trace.wall_s, [trace.tokens[request.id] for request in requests])

    def close(self) -> None:
        """End the process."""
        self.resume()
        self._engine.close()


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and all its descendants."""
    try:
        parent = psutil.Process(pid)
        tree = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _sequence(request: Request) -> Sequence:
    return Sequence(request.id, request.prompt, max_tokens=request.tokens, reserve=request.tokens)


def _check(requests: list[Request], trace: RunTrace) -> None:
    """RuntimeError unless all tokens arrived and were computed in this run."""
    if trace.failed:
        raise RuntimeError(f"the engine failed {trace.failed} of {len(requests)} requests")
    expected = sum(len(request.prompt) + request.tokens - 1 for request in requests)
    computed = trace.counted["computed_tokens"]
    if computed < expected:
        raise RuntimeError(
            f"the engine computed only {computed:.0f} of the {expected} tokens expected"
        )
