"""E4: SmolLM2 served to 1, 8 and 32 clients by our engine, vLLM and llama.cpp.

A trial with the most clients chooses each engine's number format. Then, in each round, every engine
serves every number of clients, in random order, while the others are paused.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import prod
from pathlib import Path
from random import Random
from time import perf_counter, sleep
from typing import Final, Self

from safetensors import safe_open

from benchmarks.e4.contenders import FORMATS, LLAMA, QUANTIZED, Contender, contenders
from benchmarks.e4.measures import LoadTrace
from benchmarks.e4.rows import (
    Run,
    bound_rows,
    load_rows,
    ratio_rows,
    step_rows,
    targets,
    trial_rows,
)
from benchmarks.e4.servers import Server
from benchmarks.e4.workload import text_requests
from benchmarks.engine.floor import Peak, peak
from benchmarks.engine.workload import Request, warmup_requests
from benchmarks.harness.machine import instruction_sets
from benchmarks.harness.report import Report, Row
from benchmarks.harness.retry import Measured, quietest

CLIENTS: Final = (1, 8, 32)
REQUESTS_PER_CLIENT: Final = {1: 8, 8: 4, 32: 3}
TRIAL_PER_CLIENT: Final = 2
FURTHER_ROUNDS: Final = 2  # of a contender without a target, which is slow
MINUTES: Final = 15  # on two cores, everything installed
THREADS: Final = 2
SETTLE_S: Final = 0.5
SEED: Final = 4


def run(
    data: Path, model: Path, rounds: int, clients: list[int], only: list[str], threads: int
) -> None:
    """Measure; the result is written after each round."""
    look = clients != list(CLIENTS) or threads != THREADS or bool(only)
    report = Report("E4", look)
    report.say(f"about {MINUTES} minutes with 5 rounds, once vLLM and llama.cpp are installed")
    most = max(clients) * max(REQUESTS_PER_CLIENT[each] for each in clients)
    requests = text_requests(data, model, most)
    weights = weights_of(model)
    best = quietest(lambda: peak(weights, "float32", threads), lambda _: None).outcome
    with Comparison(report, model, requests, clients, threads, best) as comparison:
        comparison.choose(only or list(FORMATS))
        for _ in range(rounds):
            comparison.round()
            report.write(comparison.rows(), targets(comparison.runs))
        report.conclude(comparison.rows(), targets(comparison.runs))


class Comparison:
    """The engines that take part, and their runs so far."""

    def __init__(
        self,
        report: Report,
        model: Path,
        requests: list[Request],
        clients: list[int],
        threads: int,
        best: Peak,
    ) -> None:
        self.runs: list[Run] = []
        self._trials: list[Run] = []
        self._report = report
        self._model = model
        self._requests = requests
        self._clients = clients
        self._threads = threads
        self._rng = Random(SEED)
        self._present: dict[Contender, Server] = {}
        self._rounds = 0
        self._weights = weights_of(model)
        self._peak = best

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for server in self._present.values():
                stack.callback(server.close)
            self._present.clear()

    def choose(self, engines: list[str]) -> None:
        """Start each engine in each of its formats; the fastest with the most clients stays."""
        most = max(self._clients)
        for engine in engines:
            tried: list[Run] = []
            for contender in contenders(engine):
                self._start(contender)
                tried += self._measure(contender, most, TRIAL_PER_CLIENT)
            self._trials += tried
            ranked = sorted(tried, key=lambda run: run.trace.rate, reverse=True)
            for slower in ranked[1:]:
                self._drop(slower.contender)
        if LLAMA in engines:
            self._start(Contender(LLAMA, QUANTIZED))

    def round(self) -> None:
        """Every engine with every number of clients, in random order."""
        began = perf_counter()
        for clients in self._rng.sample(self._clients, len(self._clients)):
            turn = [
                contender
                for contender in self._present
                if self._rounds < FURTHER_ROUNDS or not contender.further
            ]
            for contender in self._rng.sample(turn, len(turn)):
                self.runs += self._measure(contender, clients, REQUESTS_PER_CLIENT[clients])
        self._rounds += 1
        self._report.say(f"round {self._rounds} took {perf_counter() - began:.0f} s")

    def rows(self) -> list[Row]:
        """All rows so far."""
        machine = {
            "instruction sets": instruction_sets(),
            "read_gb_s": self._peak.bytes_s / 1e9,
            "float32_gflops": self._peak.flops / 1e9,
            "weights_millions": self._weights / 1e6,
        }
        return [
            machine,
            *trial_rows(self._trials, self._present),
            *load_rows(self.runs),
            *ratio_rows(self.runs),
            *step_rows(self.runs),
            *bound_rows(self.runs, self._weights, self._peak),
        ]

    def _start(self, contender: Contender) -> None:
        """Start a contender; one that cannot be had is reported and left out."""
        self._report.say(f"{contender.name}: starting")
        try:
            server = contender.start(self._model, self._clients, self._threads)
        except (RuntimeError, OSError) as error:
            self._report.say(f"{contender.name}: absent: {error}")
            return
        self._present[contender] = server
        server.pause()

    def _measure(self, contender: Contender, clients: int, each: int) -> list[Run]:
        """One run; none if the contender is absent or fails, after which it is absent."""
        server = self._present.get(contender)
        if server is None:
            return []
        requests = self._requests[: clients * each]
        server.resume()
        try:
            sleep(SETTLE_S)
            server.serve(warmup_requests(requests), clients)
            measured = quietest(
                partial(server.serve, requests, clients), self._reporter(contender, clients)
            )
        except (RuntimeError, OSError) as error:
            self._report.say(f"{contender.name}: absent: {error}")
            self._drop(contender)
            return []
        server.pause()
        return [Run(contender, clients, self._rounds, measured)]

    def _drop(self, contender: Contender) -> None:
        self._present.pop(contender).close()

    def _reporter(
        self, contender: Contender, clients: int
    ) -> Callable[[Measured[LoadTrace]], None]:
        def report(measured: Measured[LoadTrace]) -> None:
            self._report.say(
                f"{clients} clients, {contender.name}: {measured.outcome.rate:,.1f} tok/s, "
                f"{measured}"
            )

        return report


def weights_of(model: Path) -> int:
    """The number of weights in a folder; tied ones count once."""
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
            total += sum(map(prod, shapes))
    return total
