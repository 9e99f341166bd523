"""E3: the engine with a fixed KV budget, by the length reserved for each answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from typing import Final

from benchmarks.engine.client import EngineProcess, RunTrace
from benchmarks.engine.models import model_folder
from benchmarks.engine.occupancy import occupancy
from benchmarks.engine.reservations import predicted, relative_error
from benchmarks.engine.workload import GENERATION, MIXED, Request, mixed_requests
from benchmarks.harness.ratios import paired
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from engine.protocol import Sampling, Sequence

MAX_GENERATED: Final = GENERATION[1]  # max_tokens of every request
FITTING_SEQUENCES: Final = 10  # sequences of mean length that fit the KV budget
SIZE: Final = "tiny"
ORACLE: Final = "oracle"


@dataclass(frozen=True)
class KnownLengthRequest:
    """A request with a known answer length: the model generates `stop` after it."""

    id: str
    prompt: list[int]
    sampling: Sampling
    length: int
    stop: int

    def sequence(self, reserve: int) -> Sequence:
        """The submitted sequence: limited to the longest answer, ended by `stop`."""
        return Sequence(
            self.id,
            self.prompt,
            max_tokens=MAX_GENERATED,
            reserve=reserve,
            stop_ids=[self.stop],
            sampling=self.sampling,
        )


def run(rounds: int, requests: int, threads: int, size: str) -> None:
    """Measure all policies in turns on one engine; writes the result after each round."""
    report = Report("E3", look=requests != MIXED or size != SIZE)
    mixed = mixed_requests(requests)
    budget = round(
        FITTING_SEQUENCES * mean(len(request.prompt) + request.tokens for request in mixed)
    )
    with EngineProcess(
        "E3", model_folder(size), engine_threads=threads, kv_tokens=budget, prefix_sharing=0
    ) as engine:
        known = learn_lengths(engine, mixed)
        reserves = policies([request.length for request in known])
        report.say(f"{budget} KV tokens; answers of {mean(k.length for k in known):.1f} tokens")
        traces: dict[str, list[Measured[RunTrace]]] = {name: [] for name in reserves}
        for number in range(rounds):
            for name, reserve in reserves.items():
                sequences = list(map(KnownLengthRequest.sequence, known, reserve))
                report_run = partial(_report_run, report, f"round {number + 1}: {name}")
                traces[name].append(quietest(partial(engine.run, sequences), report_run))
            rows = list(_rows(known, reserves, traces))
            report.write(rows, targets(rows))
    report.conclude(rows, targets(rows))


def learn_lengths(engine: EngineProcess, requests: list[Request]) -> list[KnownLengthRequest]:
    """Generate a long answer for each request, and choose its stop token.

    A stop id ends an answer at its first occurrence, so the stop token is one that occurs first
    close to the intended length. Answers are sampled at temperature 1 with a seed each, because
    greedy answers of a random model soon repeat themselves.
    """
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in range(len(requests))]
    trace = engine.run(
        [
            Sequence(
                r.id, r.prompt, max_tokens=MAX_GENERATED, reserve=MAX_GENERATED, sampling=sampling
            )
            for r, sampling in zip(requests, samplings, strict=True)
        ]
    )
    known = []
    for request, sampling in zip(requests, samplings, strict=True):
        answer = trace.tokens[request.id]
        length = stop_length(answer, request.tokens)
        known.append(
            KnownLengthRequest(request.id, request.prompt, sampling, length, answer[length])
        )
    return known


def stop_length(answer: list[int], wanted: int) -> int:
    """The length closest to the wanted one that is followed by a token not yet in the answer."""
    new = [place for place in range(1, len(answer)) if answer[place] not in answer[:place]]
    return min(new, key=lambda place: abs(place - wanted))


def policies(lengths: list[int]) -> dict[str, list[int]]:
    """The reservation of each policy for each answer, including the stop token."""
    lengths = [length + 1 for length in lengths]
    return {
        "maximum": [MAX_GENERATED] * len(lengths),
        "predicted-25": predicted(lengths, MAX_GENERATED, 0.25),
        "predicted-50": predicted(lengths, MAX_GENERATED, 0.5),
        ORACLE: lengths,
        "none": [1] * len(lengths),
    }


def targets(rows: Iterable[Row]) -> list[Target]:
    """The targets for the policies' rows."""
    by_policy = {row["policy"]: row for row in rows}
    prediction = by_policy["predicted-25"]
    failed = sum(row["failed"] for row in by_policy.values())
    return [
        target("predicted-25: tokens/s over the oracle's", prediction["over_oracle"], 0.92),
        target("predicted-25: KV use while requests wait", prediction["kv_use_queued"], 0.85),
        target("out of memory, all policies", failed, 0, "at most"),
    ]


def _rows(
    known: list[KnownLengthRequest],
    reserves: dict[str, list[int]],
    traces: dict[str, list[Measured[RunTrace]]],
) -> Iterable[Row]:
    oracle = [_rate(measured) for measured in traces[ORACLE]]
    for name, found in traces.items():
        rates = [_rate(measured) for measured in found]
        over = paired(rates, oracle)
        true = [request.length + 1 for request in known]
        yield {
            "policy": name,
            "error": relative_error(reserves[name], true),
            "tokens_s": rates,
            "median": median(rates),
            "over_oracle": over and over.median,
            "low": over and over.low,
            "high": over and over.high,
            **_memory([measured.outcome for measured in found], known),
            "foreign": [measured.load.foreign for measured in found],
            "stolen": [measured.load.stolen for measured in found],
        }


def _memory(traces: list[RunTrace], known: list[KnownLengthRequest]) -> Row:
    """The policy's use of KV memory: medians over rounds, and totals of failures.

    Extra tokens are computed after a preemption, and by the step in flight when an answer ends.
    """
    held = [occupancy(trace) for trace in traces]
    queued = [use.kv_use_queued for use in held if use.kv_use_queued is not None]
    needed = sum(len(request.prompt) + request.length for request in known)
    return {
        "in_flight": median(use.in_flight for use in held),
        "kv_use": median(use.kv_use for use in held),
        "kv_use_queued": median(queued) if queued else None,
        "preemptions": median(trace.counted["preemptions"] for trace in traces),
        "extra_computed": median(p.counted["computed_tokens"] - needed for p in traces),
        "failed": sum(trace.failed for trace in traces),
        "wrong_lengths": sum(_wrong_lengths(trace, known) for trace in traces),
    }


def _wrong_lengths(trace: RunTrace, known: list[KnownLengthRequest]) -> int:
    """Answers of unexpected length: ties may break differently."""
    return sum(len(trace.tokens[request.id]) != request.length for request in known)


def _rate(measured: Measured[RunTrace]) -> float:
    return measured.outcome.generated / measured.outcome.wall_s


def _report_run(report: Report, label: str, measured: Measured[RunTrace]) -> None:
    held = occupancy(measured.outcome)
    report.say(
        f"{label} {_rate(measured):,.1f} tok/s, {held.in_flight:.1f} in flight, "
        f"KV use {held.kv_use:.0%}, {measured.outcome.counted['preemptions']:.0f} preempted, "
        f"{measured.outcome.failed} failed, {measured}"
    )
