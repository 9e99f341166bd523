"""P2: the cost of a length prediction, and the latency it adds.

A gateway's predictor with its process and a version of P1's configuration; requests arrive as a
Poisson process, each with a new text. The predictor process is pinned to one core, the client to
another.
"""

import asyncio
import gc
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import psutil
import uvloop

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from benchmarks.p2.choices import (
    CUES_AND_MEANING,
    CUES_ONLY,
    MINILM_TOKENS,
    PRODUCT_VECTOR,
    VectorQuality,
    minilm_name,
    vector_qualities,
)
from benchmarks.p2.load import (
    LatencyQuantiles,
    LoadRun,
    arrival_times,
    drain,
    pin,
    prediction_requests,
    run_load,
    warm_up,
    with_new_instructions,
)
from benchmarks.p2.parts import (
    BATCH_REQUESTS,
    TREE_HEADS,
    PartCost,
    TimedSample,
    time_encoders,
    time_parts,
)
from benchmarks.p2.version import MODEL, MODEL_HASH, FittedVersion, make_version
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.migration import migrate
from gateway.evaluation.corpus import read_corpus
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from models.base import new_id

BUDGET_S: Final = 0.05  # the default of LMAAS_PREDICTION_BUDGET_MS
BUDGET_TOLERANCE_MS: Final = 10.0
RATE: Final = 100
MAX_P99_MS: Final = 5.0
MAX_TICK_DELAY_MS: Final = 5.0
MAX_TREES_MS: Final = 0.5
MAX_BATCHED_TREES_US: Final = 60.0
PART_TEXTS: Final = 1_000  # timed per part


@dataclass(frozen=True)
class OfferedLoad:
    """Load at one rate in requests/s; `new_instructions`: each request has its own instruction."""

    rate: int
    seconds: float
    rounds: int = 1
    new_instructions: bool = False


OFFERED_LOADS: Final = (
    OfferedLoad(RATE, 30, rounds=2),
    OfferedLoad(200, 20),
    OfferedLoad(400, 20),
    OfferedLoad(RATE, 20, new_instructions=True),
    OfferedLoad(3_000, 2),
)
OVERLOAD: Final = OFFERED_LOADS[-1]
PARTS: Final = ("load", "parts", "choices")


@dataclass
class Measurements:
    """The measurements so far."""

    load: dict[OfferedLoad, list[Measured[LoadRun]]] = field(default_factory=dict)
    costs: list[PartCost] = field(default_factory=list)
    encoders: dict[int, PartCost] = field(default_factory=dict)
    vector_qualities: list[VectorQuality] = field(default_factory=list)


def run(data: Path, only: Sequence[str], threads: int) -> None:
    """Measure on the folder's texts; the result is written after each step."""
    report = Report("P2", look=set(only) != set(PARTS))
    corpus = read_corpus(data, data)
    version = make_version(corpus, report, threads)
    client_core, process_core = cores()
    found = Measurements()

    def write() -> None:
        report.write(rows_of(found), targets(found))

    if "load" in only:
        requests = prediction_requests([*corpus.train, *corpus.test])
        for offered, measured in _load(version, requests, client_core, process_core, report):
            found.load.setdefault(offered, []).append(measured)
            write()
    if "parts" in only:
        found.costs = _costs(version, process_core, report)
        write()
    if "choices" in only:
        texts = [line.input for line in version.test.lines]
        found.encoders = time_encoders(texts, MINILM_TOKENS, process_core)
        for quality in vector_qualities(version, threads, report.say):
            found.vector_qualities.append(quality)
            write()
    report.conclude(rows_of(found), targets(found))


def cores() -> tuple[int, int]:
    """A core for the client and one for the predictor process; the same if there is only one."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def _load(
    version: FittedVersion,
    requests: list[PredictionRequest],
    client_core: int,
    process_core: int,
    report: Report,
) -> Iterator[tuple[OfferedLoad, Measured[LoadRun]]]:
    known = [*version.train.lines, *version.test.lines]
    gc.collect()
    gc.freeze()  # the texts are the benchmark's; a gateway has no such heap to collect
    free = os.sched_getaffinity(0)
    with _serving(version.artefact, report) as (runner, predictor):
        runner.run(warm_up(predictor, known))
        pin(_pid(), {process_core})
        pin(0, {client_core})
        report.say(f"predictor process on core {process_core} alone, client on core {client_core}")
        next_requests = cycle(requests)  # more than an undisturbed run sends

        def once(offered: OfferedLoad, seed: int) -> LoadRun:
            times_s = arrival_times(offered.rate, offered.seconds, seed)
            batch = [next(next_requests) for _ in times_s]
            if offered.new_instructions:
                batch = with_new_instructions(batch)
            load_run = runner.run(run_load(predictor, batch, times_s.tolist()))
            runner.run(drain(predictor, batch[0]))
            return load_run

        for offered in OFFERED_LOADS:
            for seed in range(offered.rounds):
                yield (
                    offered,
                    quietest(partial(once, offered, seed), partial(_report, report, offered)),
                )
    pin(0, free)


@contextmanager
def _serving(artefact: bytes, report: Report) -> Iterator[tuple[asyncio.Runner, LengthPredictor]]:
    """A predictor as in a gateway: on uvloop, with its process and an empty database."""
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-p2-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        migrate(postgres.url)
        database = runner.run(Database.open(postgres.url))
        predictor = LengthPredictor(
            model=MODEL, model_hash=MODEL_HASH, budget_s=BUDGET_S, sessions=database.sessions
        )
        runner.run(_activate(predictor, artefact))
        report.say("predictor process ready")
        try:
            yield runner, predictor
        finally:
            runner.run(predictor.close())
            runner.run(database.close())


async def _activate(predictor: LengthPredictor, artefact: bytes) -> None:
    await predictor.start()
    await predictor.ready()
    await predictor.activate(new_id(), artefact)


def _pid() -> int:
    """The id of the predictor process."""
    (pid,) = (
        child.pid
        for child in psutil.Process().children()
        if "gateway.prediction.serving.process" in child.cmdline()
    )
    return int(pid)


def _costs(version: FittedVersion, core: int, report: Report) -> list[PartCost]:
    texts = [line.input for line in version.test.lines[:PART_TEXTS]]
    sample = TimedSample(version.test.inputs, texts)

    def report_parts(measured: Measured[list[PartCost]]) -> None:
        report.say(f"parts alone, {measured}")

    return quietest(partial(time_parts, version.artefact, sample, core), report_parts).outcome


def targets(found: Measurements) -> list[Target]:
    """The targets; a missing measurement misses its target."""
    usual_load = pooled(found.load.get(OFFERED_LOADS[0], []))
    overload = pooled(found.load.get(OVERLOAD, []))
    costs = {(cost.part, cost.batch): cost for cost in found.costs}
    single, batch = costs.get((TREE_HEADS, 1)), costs.get((TREE_HEADS, BATCH_REQUESTS))
    waits = LatencyQuantiles.of(usual_load.waited_s) if usual_load else None
    late = LatencyQuantiles.of(usual_load.tick_delays_s) if usual_load else None
    maximum = LatencyQuantiles.of(overload.waited_s).maximum if overload else None
    return [
        target(f"ms waited, p99 at {RATE}/s", waits.p99 if waits else None, MAX_P99_MS, "at most"),
        target(
            "ms a tick is late, p99.9", late.p999 if late else None, MAX_TICK_DELAY_MS, "at most"
        ),
        target(
            "ms of six heads, p99",
            single.p99_us / 1000 if single else None,
            MAX_TREES_MS,
            "at most",
        ),
        target(
            f"µs of six heads, mean in batches of {BATCH_REQUESTS}",
            batch.mean_us if batch else None,
            MAX_BATCHED_TREES_US,
            "at most",
        ),
        target(
            f"ms waited, longest at {OVERLOAD.rate:,}/s",
            maximum,
            BUDGET_S * 1000 + BUDGET_TOLERANCE_MS,
            "at most",
        ),
    ]


def pooled(rounds: Sequence[Measured[LoadRun]]) -> LoadRun | None:
    """All rounds pooled; None without any."""
    load_runs = [measured.outcome for measured in rounds]
    if not load_runs:
        return None
    return LoadRun(
        waited_s=[each for load_run in load_runs for each in load_run.waited_s],
        sources=[each for load_run in load_runs for each in load_run.sources],
        tick_delays_s=[each for load_run in load_runs for each in load_run.tick_delays_s],
        timed_out=sum(load_run.timed_out for load_run in load_runs),
        unavailable=sum(load_run.unavailable for load_run in load_runs),
        wall_s=sum(load_run.wall_s for load_run in load_runs),
    )


def rows_of(found: Measurements) -> list[Row]:
    """All rows measured so far."""
    return [
        *(_load_row(offered, rounds) for offered, rounds in found.load.items()),
        *(_cost_row(cost) for cost in found.costs),
        *_choice_rows(found),
    ]


def _load_row(offered: OfferedLoad, rounds: list[Measured[LoadRun]]) -> Row:
    load_run = pooled(rounds)
    assert load_run is not None
    waits, late = (
        LatencyQuantiles.of(load_run.waited_s),
        LatencyQuantiles.of(load_run.tick_delays_s),
    )
    by_model = load_run.by_source["model"]
    return {
        "requests/s": offered.rate,
        "instructions": "each new" if offered.new_instructions else "of the app",
        "asked": len(load_run.waited_s),
        "answered/s": by_model / load_run.wall_s,
        "by model": by_model,
        "by history": len(load_run.sources) - by_model,
        "timed out": load_run.timed_out,
        "turned away": load_run.unavailable,
        "p50_ms": waits.p50,
        "p99_ms": waits.p99,
        "longest_ms": waits.maximum,
        "tick_p999_ms": late.p999,
        "tick_longest_ms": late.maximum,
        "foreign": max(measured.load.foreign for measured in rounds),
    }


def _cost_row(cost: PartCost) -> Row:
    return {
        "part": cost.part,
        "together": cost.batch,
        "p50_us": cost.p50_us,
        "p99_us": cost.p99_us,
        "mean_us": cost.mean_us,
    }


def _choice_rows(found: Measurements) -> Iterator[Row]:
    costs = {cost.part: cost for cost in found.costs if cost.batch == 1}
    spent = {
        CUES_ONLY: costs.get("cues, statistics"),
        CUES_AND_MEANING: costs.get("cues, statistics, meaning"),
        PRODUCT_VECTOR: costs.get("text vector"),
        **{minilm_name(tokens): cost for tokens, cost in found.encoders.items()},
    }
    for quality in found.vector_qualities:
        cost = spent[quality.name]
        yield {
            "text vector": quality.name,
            "p50_us": cost and cost.p50_us,
            "p99_us": cost and cost.p99_us,
            "τ": quality.tau,
            "log_rmse_mean": quality.log_rmse_mean,
        }


def _report(report: Report, offered: OfferedLoad, measured: Measured[LoadRun]) -> None:
    row = _load_row(offered, [measured])
    report.say(
        f"{offered.rate}/s, instructions {row['instructions']}: p50 {row['p50_ms']:.2f}, "
        f"p99 {row['p99_ms']:.2f}, longest {row['longest_ms']:.1f} ms, {row['by history']} of "
        f"{row['asked']} by history; ticks late by {row['tick_p999_ms']:.2f} ms at p99.9, "
        f"{row['tick_longest_ms']:.1f} at most; {measured}"
    )
