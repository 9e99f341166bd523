"""P2: prediction off the request's path, and the cost of a prediction.

A gateway's service with an engine, and a predictor process with a version of P1's configuration.
Requests come in bursts and at a rate, each with a new text. The predictor process has one core, the
service the other, with the engine in what it leaves of it.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

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
    OfferedLoad,
    arrival_times,
    generation_requests,
    pin,
    run_load,
    take_idle_time_only,
    warm_up,
)
from benchmarks.p2.parts import (
    BATCH_REQUESTS,
    TREE_HEADS,
    PartCost,
    TimedSample,
    time_encoders,
    time_parts,
)
from benchmarks.p2.serving import Serving, serving
from benchmarks.p2.version import FittedVersion, make_version
from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.cli.serve import SWITCH_INTERVAL_S
from gateway.evaluation.corpus import read_corpus
from gateway.garbage import search_seldom
from gateway.generation.request import GenerationRequest
from gateway.logs import set_up_logging

DEMO: Final = "demo"
RATE: Final = 100.0
MIN_BY_MODEL: Final = 0.99  # of the starts after a wait of 100 ms or longer
ANSWER_TOKENS: Final = 24  # at most
MAX_TICK_DELAY_MS: Final = 5.0
MAX_TREES_MS: Final = 0.5
MAX_BATCHED_TREES_US: Final = 60.0
PART_TEXTS: Final = 1_000  # timed per part


BURSTS: Final = (
    OfferedLoad(1, rounds=40),
    OfferedLoad(50, rounds=4),
    OfferedLoad(500, rounds=2),
)
STEADY: Final = OfferedLoad(rate=RATE, seconds=20.0)
OFFERED_LOADS: Final = (*BURSTS, STEADY)
USUAL_PARTS: Final = ("load", "parts")
PARTS: Final = (*USUAL_PARTS, "choices")


@dataclass
class Measurements:
    """The measurements so far."""

    load: dict[tuple[str, OfferedLoad], list[Measured[LoadRun]]] = field(default_factory=dict)
    costs: list[PartCost] = field(default_factory=list)
    encoders: dict[int, PartCost] = field(default_factory=dict)
    vector_qualities: list[VectorQuality] = field(default_factory=list)


def run(data: Path, model: Path | None, only: Sequence[str], threads: int) -> None:
    """Measure on the folder's texts; the result is written after each step.

    The load is on the demo model, and on `model`, if given.
    """
    set_up_logging("warning")
    report = Report("P2", look=set(only) != set(USUAL_PARTS))
    corpus = read_corpus(data, data)
    version = make_version(corpus, report, threads)
    found = Measurements()

    def write() -> None:
        report.write(rows_of(found), targets(found))

    if "load" in only:
        lines = [*corpus.train, *corpus.test]
        folders = {DEMO: DEMO_FOLDER} | ({model.name: model} if model else {})
        for name, folder in folders.items():
            with serving(folder, version.artefact) as served:
                requests = cycle(generation_requests(lines, ANSWER_TOKENS))
                search_seldom()  # this and the next as a gateway that has started
                sys.setswitchinterval(SWITCH_INTERVAL_S)
                for offered, measured in _load(served, name, requests, report):
                    found.load.setdefault((name, offered), []).append(measured)
                    write()
    if "parts" in only:
        found.costs = _costs(version, cores()[1], report)
        write()
    if "choices" in only:
        texts = [line.input for line in version.test.lines]
        found.encoders = time_encoders(texts, MINILM_TOKENS, cores()[1])
        for quality in vector_qualities(version, threads, report.say):
            found.vector_qualities.append(quality)
            write()
    report.conclude(rows_of(found), targets(found))


def cores() -> tuple[int, int]:
    """A core for the client and one for the predictor process; the same if there is only one."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def _load(
    served: Serving, name: str, requests: Iterator[GenerationRequest], report: Report
) -> Iterator[tuple[OfferedLoad, Measured[LoadRun]]]:
    client_core, process_core = cores()
    free = os.sched_getaffinity(0)
    take_idle_time_only(served.engine_pid)
    pin(served.engine_pid, {client_core})
    pin(served.predictor_pid, {process_core})
    pin(0, {client_core})
    report.say(f"{name}: predictor process on core {process_core} alone, the rest on {client_core}")

    def once(offered: OfferedLoad, seed: int) -> LoadRun:
        times_s = arrival_times(offered, seed)
        batch = [next(requests) for _ in times_s]
        return served.runner.run(run_load(served.service, batch, times_s.tolist()))

    served.runner.run(warm_up(served.service, next(requests)))
    once(OfferedLoad(20), 0)
    for offered in OFFERED_LOADS:
        rounds = [
            quietest(partial(once, offered, seed), lambda _: None, repeats=0)
            for seed in range(offered.rounds)
        ]
        _report(report, offered, rounds)
        for measured in rounds:
            yield offered, measured
    pin(0, free)


def _costs(version: FittedVersion, core: int, report: Report) -> list[PartCost]:
    texts = [line.input for line in version.test.lines[:PART_TEXTS]]
    sample = TimedSample(version.test.inputs, texts)

    def report_parts(measured: Measured[list[PartCost]]) -> None:
        report.say(f"parts alone, {measured}")

    return quietest(partial(time_parts, version.artefact, sample, core), report_parts).outcome


def targets(found: Measurements) -> list[Target]:
    """The targets; a missing measurement misses its target."""
    steady = pooled(found.load.get((DEMO, STEADY), []))
    shares = [
        share
        for rounds in found.load.values()
        if (load_run := pooled(rounds)) and (share := load_run.by_model) is not None
    ]
    late = LatencyQuantiles.of(steady.tick_delays_s) if steady else None
    costs = {(cost.part, cost.batch): cost for cost in found.costs}
    single, batch = costs.get((TREE_HEADS, 1)), costs.get((TREE_HEADS, BATCH_REQUESTS))
    return [
        target(
            "share of starts after 100 ms or longer by the model, least of all loads",
            min(shares, default=None),
            MIN_BY_MODEL,
        ),
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
    ]


def pooled(rounds: Sequence[Measured[LoadRun]]) -> LoadRun | None:
    """All rounds pooled; None without any."""
    load_runs = [measured.outcome for measured in rounds]
    if not load_runs:
        return None
    return LoadRun(
        waited_s=[each for load_run in load_runs for each in load_run.waited_s],
        sources=[each for load_run in load_runs for each in load_run.sources],
        predicted_s=[each for load_run in load_runs for each in load_run.predicted_s],
        tick_delays_s=[each for load_run in load_runs for each in load_run.tick_delays_s],
        unstarted=sum(load_run.unstarted for load_run in load_runs),
    )


def rows_of(found: Measurements) -> list[Row]:
    """All rows measured so far."""
    return [
        *(_load_row(model, offered, rounds) for (model, offered), rounds in found.load.items()),
        *(_cost_row(cost) for cost in found.costs),
        *_choice_rows(found),
    ]


def _load_row(model: str, offered: OfferedLoad, rounds: list[Measured[LoadRun]]) -> Row:
    load_run = pooled(rounds)
    assert load_run is not None
    predicted = LatencyQuantiles.of(load_run.predicted_s) if load_run.predicted_s else None
    late = LatencyQuantiles.of(load_run.tick_delays_s)
    sources = Counter(load_run.sources)
    waited = load_run.late_sources
    return {
        "model": model,
        "load": str(offered),
        "started": len(load_run.sources),
        "by model": sum(n for source, n in sources.items() if source.startswith("model")),
        "waited ≥ 100 ms": waited.total(),
        "of these by model": sum(n for s, n in waited.items() if s.startswith("model")),
        "by model %": None if load_run.by_model is None else 100 * load_run.by_model,
        "not started": load_run.unstarted,
        "predicted_p50_ms": predicted and predicted.p50,
        "predicted_p99_ms": predicted and predicted.p99,
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


def _report(report: Report, offered: OfferedLoad, rounds: list[Measured[LoadRun]]) -> None:
    row = _load_row("", offered, rounds)
    predicted = row["predicted_p99_ms"]
    report.say(
        f"{offered}: {row['by model']} of {row['started']} starts by the model, "
        f"{row['of these by model']} of {row['waited ≥ 100 ms']} after 100 ms; predicted after "
        f"{predicted and round(predicted)} ms at p99; ticks late by {row['tick_p999_ms']:.2f} ms "
        f"at p99.9, {row['tick_longest_ms']:.1f} at most; foreign {row['foreign']:.2f} cores"
    )
