"""E3: the live engine at a fixed KV budget, by what is reserved for each request's answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from typing import Final

from benchmarks.engine.client import EngineProcess, Passage
from benchmarks.engine.models import model_folder
from benchmarks.engine.occupancy import occupancy
from benchmarks.engine.reservations import predicted, relative_error
from benchmarks.engine.workload import GENERATION, MIXED, Request, mixed_requests
from benchmarks.harness.ratios import paired
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from engine.protocol import Sampling, Sequence

LONGEST: Final = GENERATION[1]  # what every caller asks for at most
FITTING: Final = 10  # mean sequences that the KV budget holds
SIZE: Final = "tiny"
ORACLE: Final = "oracle"


@dataclass(frozen=True)
class Known:
    """A request whose answer's length is known: the model itself says `stop` after it."""

    id: str
    prompt: list[int]
    sampling: Sampling
    length: int
    stop: int

    def sequence(self, reserve: int) -> Sequence:
        """What is submitted: everybody may generate the longest answer, and stops on the way."""
        return Sequence(
            self.id,
            self.prompt,
            max_tokens=LONGEST,
            reserve=reserve,
            stop_ids=[self.stop],
            sampling=self.sampling,
        )


def run(rounds: int, requests: int, threads: int, size: str) -> None:
    """Measure all policies, in turns, on one engine; the result is written after every round."""
    report = Report("E3", look=requests != MIXED or size != SIZE)
    mixed = mixed_requests(requests)
    budget = round(FITTING * mean(len(request.prompt) + request.tokens for request in mixed))
    with EngineProcess(
        "E3", model_folder(size), engine_threads=threads, kv_tokens=budget, prefix_sharing=0
    ) as engine:
        known = learn_lengths(engine, mixed)
        reserves = policies([request.length for request in known])
        report.say(f"{budget} KV tokens; answers of {mean(k.length for k in known):.1f} tokens")
        passages: dict[str, list[Measured[Passage]]] = {name: [] for name in reserves}
        for number in range(rounds):
            for name, reserve in reserves.items():
                sequences = list(map(Known.sequence, known, reserve))
                tell = partial(_tell, report, f"round {number + 1}: {name}")
                passages[name].append(quietest(partial(engine.run, sequences), tell))
            rows = list(_rows(known, reserves, passages))
            report.write(rows, targets(rows))
    report.conclude(rows, targets(rows))


def learn_lengths(engine: EngineProcess, requests: list[Request]) -> list[Known]:
    """Let the model answer each request at length, and choose where it shall stop.

    A stop id ends an answer where it first occurs, so the length is that before a token that is
    new and closest to the length wanted. Answers are drawn at temperature 1, each with a seed: the
    greedy ones of a random model soon repeat themselves, and nothing in them is new.
    """
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in range(len(requests))]
    passage = engine.run(
        [
            Sequence(r.id, r.prompt, max_tokens=LONGEST, reserve=LONGEST, sampling=sampling)
            for r, sampling in zip(requests, samplings, strict=True)
        ]
    )
    known = []
    for request, sampling in zip(requests, samplings, strict=True):
        answer = passage.tokens[request.id]
        length = stopping(answer, request.tokens)
        known.append(Known(request.id, request.prompt, sampling, length, answer[length]))
    return known


def stopping(answer: list[int], wanted: int) -> int:
    """The length closest to the one wanted after which the next token is one not yet seen."""
    new = [place for place in range(1, len(answer)) if answer[place] not in answer[:place]]
    return min(new, key=lambda place: abs(place - wanted))


def policies(lengths: list[int]) -> dict[str, list[int]]:
    """What each policy reserves for each answer; the token that ends it takes its place, too."""
    lengths = [length + 1 for length in lengths]
    return {
        "maximum": [LONGEST] * len(lengths),
        "predicted-25": predicted(lengths, LONGEST, 0.25),
        "predicted-50": predicted(lengths, LONGEST, 0.5),
        ORACLE: lengths,
        "none": [1] * len(lengths),
    }


def targets(rows: Iterable[Row]) -> list[Target]:
    """The verdicts on the policies' rows."""
    found = {row["policy"]: row for row in rows}
    guess = found["predicted-25"]
    failed = sum(row["failed"] for row in found.values())
    return [
        target("predicted-25: tokens/s over the oracle's", guess["over_oracle"], 0.92),
        target("predicted-25: KV use while requests wait", guess["kv_use_queued"], 0.85),
        target("out of memory, all policies", failed, 0, "at most"),
    ]


def _rows(
    known: list[Known],
    reserves: dict[str, list[int]],
    passages: dict[str, list[Measured[Passage]]],
) -> Iterable[Row]:
    oracle = [_rate(measured) for measured in passages[ORACLE]]
    for name, found in passages.items():
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


def _memory(passages: list[Passage], known: list[Known]) -> Row:
    """What the policy did with KV memory; medians over rounds, sums where something went wrong.

    Tokens are computed beyond need after a preemption, and one where the engine is a step ahead of
    the token that ends an answer.
    """
    held = [occupancy(passage) for passage in passages]
    queued = [each.kv_use_queued for each in held if each.kv_use_queued is not None]
    needed = sum(len(request.prompt) + request.length for request in known)
    return {
        "in_flight": median(each.in_flight for each in held),
        "kv_use": median(each.kv_use for each in held),
        "kv_use_queued": median(queued) if queued else None,
        "preemptions": median(passage.counted["preemptions"] for passage in passages),
        "extra_computed": median(p.counted["computed_tokens"] - needed for p in passages),
        "failed": sum(passage.failed for passage in passages),
        "wrong_lengths": sum(_wrong_lengths(passage, known) for passage in passages),
    }


def _wrong_lengths(passage: Passage, known: list[Known]) -> int:
    """Answers that did not end where they should: greedy ties may break differently."""
    return sum(len(passage.tokens[request.id]) != request.length for request in known)


def _rate(measured: Measured[Passage]) -> float:
    return measured.outcome.generated / measured.outcome.wall_s


def _tell(report: Report, label: str, measured: Measured[Passage]) -> None:
    held = occupancy(measured.outcome)
    report.say(
        f"{label} {_rate(measured):,.1f} tok/s, {held.in_flight:.1f} in flight, "
        f"KV use {held.kv_use:.0%}, {measured.outcome.counted['preemptions']:.0f} preempted, "
        f"{measured.outcome.failed} failed, {measured}"
    )
