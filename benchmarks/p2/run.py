"""P2: what predicting the length of an answer costs, and whom it keeps waiting.

A gateway's predictor with its process, a version of P1's configuration, and requests that arrive
as a Poisson process, each with a text that was not met before. The process has one core to
itself and whoever asks another.
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
from benchmarks.p2.choices import NONE, OURS, STATIC, TOKENS, Worth, minilm_name, worths
from benchmarks.p2.load import (
    Passage,
    Waits,
    arrivals,
    offer,
    pin,
    prediction_requests,
    settle,
    warm_up,
    with_new_instructions,
)
from benchmarks.p2.parts import BATCH, HEADS, Cost, Sample, time_encoders, time_parts
from benchmarks.p2.version import MODEL, MODEL_HASH, Version, make_version
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.migration import migrate
from gateway.evaluation.corpus import read_corpus
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from models.base import new_id

BUDGET_S: Final = 0.05  # LMAAS_PREDICTION_BUDGET_MS as it comes
A_LITTLE_MS: Final = 10.0
RATE: Final = 100
P99_MS: Final = 5.0
LATE_MS: Final = 5.0
TREES_MS: Final = 0.5
TREES_TOGETHER_US: Final = 60.0
TOLD_APART: Final = 1_000  # texts that parts are timed on


@dataclass(frozen=True)
class Offered:
    """Requests at one rate; `new_instructions`: no two have one in common."""

    rate: int
    seconds: float
    rounds: int = 1
    new_instructions: bool = False


OFFERED: Final = (
    Offered(RATE, 30, rounds=2),
    Offered(200, 20),
    Offered(400, 20),
    Offered(RATE, 20, new_instructions=True),
    Offered(3_000, 2),
)
OVERLOAD: Final = OFFERED[-1]
PARTS: Final = ("load", "parts", "choices")


@dataclass
class Found:
    """What was measured by now."""

    load: dict[Offered, list[Measured[Passage]]] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    encoders: dict[int, Cost] = field(default_factory=dict)
    worths: list[Worth] = field(default_factory=list)


def run(data: Path, only: Sequence[str], threads: int) -> None:
    """Measure on the folder's texts; the result is written as it grows."""
    report = Report("P2", look=set(only) != set(PARTS))
    corpus = read_corpus(data, data)
    version = make_version(corpus, report, threads)
    asking, answering = cores()
    found = Found()

    def write() -> None:
        report.write(rows_of(found), targets(found))

    if "load" in only:
        asked = prediction_requests([*corpus.train, *corpus.test])
        for offered, measured in _load(version, asked, asking, answering, report):
            found.load.setdefault(offered, []).append(measured)
            write()
    if "parts" in only:
        found.costs = _costs(version, answering, report)
        write()
    if "choices" in only:
        texts = [line.input for line in version.test.lines]
        found.encoders = time_encoders(texts, TOKENS, answering)
        for worth in worths(version, threads, report.say):
            found.worths.append(worth)
            write()
    report.conclude(rows_of(found), targets(found))


def cores() -> tuple[int, int]:
    """A core for whoever asks and one for the process that answers; the same if there is one."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def _load(
    version: Version, asked: list[PredictionRequest], asking: int, answering: int, report: Report
) -> Iterator[tuple[Offered, Measured[Passage]]]:
    known = [*version.train.lines, *version.test.lines]
    gc.collect()
    gc.freeze()  # the texts are the benchmark's: no gateway has them to look through
    free = os.sched_getaffinity(0)
    with _serving(version.artefact, report) as (runner, predictor):
        runner.run(warm_up(predictor, known))
        pin(_pid(), {answering})
        pin(0, {asking})
        report.say(f"predictor process on core {answering} alone, asking from core {asking}")
        new = cycle(asked)  # more than are asked in a run that nobody disturbs

        def once(offered: Offered, seed: int) -> Passage:
            at_s = arrivals(offered.rate, offered.seconds, seed)
            batch = [next(new) for _ in at_s]
            if offered.new_instructions:
                batch = with_new_instructions(batch)
            passage = runner.run(offer(predictor, batch, at_s.tolist()))
            runner.run(settle(predictor, batch[0]))
            return passage

        for offered in OFFERED:
            for seed in range(offered.rounds):
                yield (
                    offered,
                    quietest(partial(once, offered, seed), partial(_tell, report, offered)),
                )
    pin(0, free)


@contextmanager
def _serving(artefact: bytes, report: Report) -> Iterator[tuple[asyncio.Runner, LengthPredictor]]:
    """A predictor as a gateway has it: on uvloop, with its process and an empty database."""
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
    """The predictor process, our child."""
    (pid,) = (
        child.pid
        for child in psutil.Process().children()
        if "gateway.prediction.serving.process" in child.cmdline()
    )
    return int(pid)


def _costs(version: Version, core: int, report: Report) -> list[Cost]:
    texts = [line.input for line in version.test.lines[:TOLD_APART]]
    sample = Sample(version.test.inputs, texts)

    def tell(measured: Measured[list[Cost]]) -> None:
        report.say(f"parts alone, {measured}")

    return quietest(partial(time_parts, version.artefact, sample, core), tell).outcome


def targets(found: Found) -> list[Target]:
    """The verdicts; what was not measured is missed."""
    usual = pooled(found.load.get(OFFERED[0], []))
    over = pooled(found.load.get(OVERLOAD, []))
    costs = {(cost.part, cost.together): cost for cost in found.costs}
    alone, together = costs.get((HEADS, 1)), costs.get((HEADS, BATCH))
    waits = Waits.of(usual.waited_s) if usual else None
    late = Waits.of(usual.late_s) if usual else None
    longest = Waits.of(over.waited_s).longest if over else None
    return [
        target(f"ms waited, p99 at {RATE}/s", waits.p99 if waits else None, P99_MS, "at most"),
        target("ms a tick is late, p99.9", late.p999 if late else None, LATE_MS, "at most"),
        target("ms of six heads, p99", alone.p99_us / 1000 if alone else None, TREES_MS, "at most"),
        target(
            f"µs of six heads, mean in batches of {BATCH}",
            together.mean_us if together else None,
            TREES_TOGETHER_US,
            "at most",
        ),
        target(
            f"ms waited, longest at {OVERLOAD.rate:,}/s",
            longest,
            BUDGET_S * 1000 + A_LITTLE_MS,
            "at most",
        ),
    ]


def pooled(rounds: Sequence[Measured[Passage]]) -> Passage | None:
    """All rounds as one; None without any."""
    passages = [measured.outcome for measured in rounds]
    if not passages:
        return None
    return Passage(
        waited_s=[each for passage in passages for each in passage.waited_s],
        sources=[each for passage in passages for each in passage.sources],
        late_s=[each for passage in passages for each in passage.late_s],
        timed_out=sum(passage.timed_out for passage in passages),
        unavailable=sum(passage.unavailable for passage in passages),
        wall_s=sum(passage.wall_s for passage in passages),
    )


def rows_of(found: Found) -> list[Row]:
    """All rows of what was measured by now."""
    return [
        *(_load_row(offered, rounds) for offered, rounds in found.load.items()),
        *(_cost_row(cost) for cost in found.costs),
        *_choice_rows(found),
    ]


def _load_row(offered: Offered, rounds: list[Measured[Passage]]) -> Row:
    passage = pooled(rounds)
    assert passage is not None
    waits, late = Waits.of(passage.waited_s), Waits.of(passage.late_s)
    by_model = passage.by_source["model"]
    return {
        "requests/s": offered.rate,
        "instructions": "each new" if offered.new_instructions else "of the app",
        "asked": len(passage.waited_s),
        "answered/s": by_model / passage.wall_s,
        "by model": by_model,
        "by history": len(passage.sources) - by_model,
        "timed out": passage.timed_out,
        "turned away": passage.unavailable,
        "p50_ms": waits.p50,
        "p99_ms": waits.p99,
        "longest_ms": waits.longest,
        "tick_p999_ms": late.p999,
        "tick_longest_ms": late.longest,
        "foreign": max(measured.load.foreign for measured in rounds),
    }


def _cost_row(cost: Cost) -> Row:
    return {
        "part": cost.part,
        "together": cost.together,
        "p50_us": cost.p50_us,
        "p99_us": cost.p99_us,
        "mean_us": cost.mean_us,
    }


def _choice_rows(found: Found) -> Iterator[Row]:
    costs = {cost.part: cost for cost in found.costs if cost.together == 1}
    spent = {
        NONE: costs.get("cues, statistics"),
        STATIC: costs.get("cues, statistics, meaning"),
        OURS: costs.get("text vector"),
        **{minilm_name(tokens): cost for tokens, cost in found.encoders.items()},
    }
    for worth in found.worths:
        cost = spent[worth.name]
        yield {
            "text vector": worth.name,
            "p50_us": cost and cost.p50_us,
            "p99_us": cost and cost.p99_us,
            "τ": worth.tau,
            "log_rmse_mean": worth.log_rmse_mean,
        }


def _tell(report: Report, offered: Offered, measured: Measured[Passage]) -> None:
    row = _load_row(offered, [measured])
    report.say(
        f"{offered.rate}/s, instructions {row['instructions']}: p50 {row['p50_ms']:.2f}, "
        f"p99 {row['p99_ms']:.2f}, longest {row['longest_ms']:.1f} ms, {row['by history']} of "
        f"{row['asked']} by history; ticks late by {row['tick_p999_ms']:.2f} ms at p99.9, "
        f"{row['tick_longest_ms']:.1f} at most; {measured}"
    )
