"""U1: SmolLM2 on vLLM's CPU build, straight and through the gateway, at loads around saturation.

vLLM has a core of its own; gateway, predictor and client share another one. Load 1 is vLLM's own
saturated throughput, measured first. The predictor has learned from SmolLM2's answers to other
texts. Each pass of a load sends the same requests at the same times, with the same seeds.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Final

from msgspec import structs

from benchmarks.harness.contenders import FCFS, OURS
from benchmarks.harness.paths import log_file
from benchmarks.harness.report import Report, Row, Target
from benchmarks.harness.upstream_servers import Server, vllm
from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.live.tenant import Tenant
from benchmarks.own_lengths.lengths_file import read_lengths
from benchmarks.s1.live_learning import known_lengths, learn_known
from benchmarks.s1.live_models import LiveModel, take, text_questions
from benchmarks.s1.live_traffic import PlannedQuestion, plan
from benchmarks.u1.passes import SidePass, send
from benchmarks.u1.replays import learned_engine, paced, replayed_s
from benchmarks.u1.rows import DIRECT, Cell, part_of, rows_of, targets
from gateway.errors import NotFound
from gateway.evaluation.corpus import read_corpus

FIGURE: Final = "U1"
RUNNING: Final = (8, 32)
LOADS: Final = (0.8, 1.0, 1.2)
QUICK_LOADS: Final = (1.2,)
REQUESTS: Final = {8: 120, 32: 240}
QUICK_REQUESTS: Final = 32
SATURATING: Final = {8: 64, 32: 160}
SEED: Final = 47
WARM_UP: Final = 8
QUICK_STRIDE: Final = 2  # of the lines that the predictor learns from


def run(data: Path, folder: Path, *, quick: bool, sequences: int | None) -> None:
    """Measure each cell, or those of this number of sequences at once; the others' are kept.

    NotFound without the model, RuntimeError without two cores.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; `lmaas models fetch smollm2` makes it")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        raise RuntimeError("U1 needs two cores: one for vLLM, one for gateway and client")
    report = Report(FIGURE, look=quick)
    os.sched_setaffinity(0, {cores[0]})  # the gateway's processes inherit it
    running: Sequence[int] = RUNNING if sequences is None else (sequences,)
    loads: Sequence[float] = LOADS
    if quick:
        running, loads = running[:1], QUICK_LOADS
    kept = report.committed([part_of(n) for n in RUNNING if n not in running])
    wanted = list(product(running, loads))
    cells: list[Cell] = []
    for count in running:
        with _server(folder, count, cores[-1]) as server:
            measured = Measurement(data, folder, server, count, report, quick=quick)
            for cell in measured.cells(loads):
                cells.append(cell)
                report.write(*joined(kept, cells, wanted))
    report.conclude(*joined(kept, cells, wanted))


def joined(
    kept: tuple[list[Row], list[Target]],
    cells: Sequence[Cell],
    wanted: Sequence[tuple[int, float]],
) -> tuple[list[Row], list[Target]]:
    """The rows and targets of all parts in their order, of which some were measured before."""
    parts = [part_of(count) for count in RUNNING]
    rows, bounds = [*kept[0], *rows_of(cells)], [*kept[1], *targets(cells, wanted)]
    return (
        [row for part in parts for row in rows if row["part"] == part],
        [bound for part in parts for bound in bounds if bound.name.startswith(part)],
    )


@contextmanager
def _server(folder: Path, running: int, core: int) -> Iterator[Server]:
    server = vllm(folder, log_file(f"U1-vllm-{running}"), sequences=running, core=core)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


class Measurement:
    """All loads with one vLLM and one gateway."""

    def __init__(
        self,
        data: Path,
        folder: Path,
        server: Server,
        running: int,
        report: Report,
        *,
        quick: bool,
    ) -> None:
        self._folder = folder
        self._server = server
        self._running = running
        self._report = report
        self._model = LiveModel(
            name="smollm2",
            folder=folder,
            max_prompt=256,
            max_answer=128 if quick else 256,
            backlog=0,
            arrivals=0,
            calibration_s=0.0,
        )
        corpus = read_corpus(data, data)
        known = known_lengths(corpus.train, read_lengths())
        self._known = known[:: QUICK_STRIDE if quick else 1]
        self._apps = {line.app for line in (*corpus.train, *corpus.test)}
        self._count = QUICK_REQUESTS if quick else REQUESTS[running]
        self._saturating = QUICK_REQUESTS if quick else SATURATING[running]
        wanted = self._count + self._saturating
        questions = take(self._model, text_questions(corpus.test, SEED), wanted)
        self._questions, self._first = questions[: self._count], questions[self._count :]

    def cells(self, loads: Sequence[float]) -> Iterator[Cell]:
        """A cell for each load, as they are measured."""
        rate_s = self._saturated_rate_s()
        settings = {
            "model": self._folder.absolute(),
            "model_name": self._model.name,
            "upstream": self._server.url,
            "max_connections": 4_000,
        }
        with (
            GatewayProcess(f"{FIGURE}-{self._running}", **settings) as gateway,
            gateway.admin() as admin,
        ):
            tenant = Tenant.create(admin, FIGURE, self._apps)
            learned = learn_known(self._model, admin, tenant, self._known)
            self._report.say(f"lengths by {learned}")
            self._send(gateway.url, plan(self._first[:WARM_UP], SEED), tenant)
            for load in loads:
                yield self._cell(gateway, tenant, load, load * rate_s, rate_s)

    def _saturated_rate_s(self) -> float:
        planned = plan(self._first, SEED)
        self._send(self._server.url, planned[:WARM_UP], None)
        rate_s = self._send(self._server.url, planned, None).saturated_rate_s(self._running)
        self._report.say(f"vLLM with {self._running}: saturated at {rate_s:.2f} requests/s")
        return rate_s

    def _cell(
        self,
        gateway: GatewayProcess,
        tenant: Tenant,
        load: float,
        rate_s: float,
        saturated_s: float,
    ) -> Cell:
        planned = plan(self._questions, SEED, rate_s)
        sides = {}
        since = datetime.now(UTC)
        for side in (DIRECT, FCFS, OURS):
            if side != DIRECT:
                gateway.use(side)
                since = datetime.now(UTC)
            url = self._server.url if side == DIRECT else gateway.url
            meter = gateway.meter()
            done = self._send(url, planned, None if side == DIRECT else tenant)
            sides[side] = done = structs.replace(done, foreign=meter.load().foreign)
            self._report.say(
                f"{side} with {self._running} at load {load:g}: mean "
                f"{done.response_s.mean():.2f} s, {done.tokens_s:.1f} tokens/s, queue "
                f"{done.depths.max():.0f}, foreign {done.foreign:.2f} cores"
            )
        workload = gateway.served(since, len(planned)).workload
        engine = paced(learned_engine(gateway, self._running), workload, saturated_s)
        return Cell(self._running, load, rate_s, sides, workload, replayed_s(engine, workload))

    def _send(
        self, url: str, planned: Sequence[PlannedQuestion], tenant: Tenant | None
    ) -> SidePass:
        """Send the questions; no prefix is cached of those sent before."""
        self._server.forget_prefixes()
        return send(url, self._server, self._model, planned, tenant.keys if tenant else None)
