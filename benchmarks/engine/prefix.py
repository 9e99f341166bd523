"""prefix: requests with a common prefix, with and without sharing it in KV memory."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import median
from typing import Final

from benchmarks.engine.client import EngineProcess, RunTrace
from benchmarks.engine.models import model_folder
from benchmarks.engine.workload import prefixed_requests
from benchmarks.harness.ratios import paired
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from engine.protocol import Sequence

REQUESTS: Final = 64
SHARED: Final = 1024
OWN: Final = 32
GENERATED: Final = 32
SIZE: Final = "tiny"
KV_TOKENS: Final = REQUESTS * 1152  # enough without sharing at any page size: nothing is preempted
MIN_SAVED_SHARE: Final = 0.9


@dataclass(frozen=True)
class SharingPair:
    """Runs of the same requests with and without sharing."""

    shared: RunTrace
    unshared: RunTrace

    @property
    def same(self) -> float:
        """Share of requests with equal answers."""
        one, other = self.shared.tokens, self.unshared.tokens
        return sum(one[name] == other[name] for name in one) / len(one)

    @property
    def saved(self) -> float:
        """Share of the prompt tokens that sharing saves."""
        return 1 - prefilled(self.shared) / prefilled(self.unshared)


def run(rounds: int, requests: int, threads: int, size: str) -> None:
    """Measure both settings in turns; writes the result after each round."""
    report = Report("prefix", look=requests != REQUESTS or size != SIZE)
    found: list[Measured[SharingPair]] = []
    with ExitStack() as stack:
        on, off = (
            stack.enter_context(
                EngineProcess(
                    f"prefix-{sharing}",
                    model_folder(size),
                    engine_threads=threads,
                    kv_tokens=KV_TOKENS,
                    prefix_sharing=sharing,
                )
            )
            for sharing in (1, 0)
        )
        seeds = count()
        for _ in range(rounds):
            found.append(
                quietest(
                    lambda: _pair(on, off, requests, next(seeds)), partial(_report_run, report)
                )
            )
            report.write(rows_of(found, requests), targets(found, requests))
    report.conclude(rows_of(found, requests), targets(found, requests))


def prefilled(trace: RunTrace) -> float:
    """Computed prompt tokens: all computed tokens except the generated ones fed back."""
    decoded = trace.generated - len(trace.tokens)
    return trace.counted["computed_tokens"] - decoded


def max_saved(requests: int) -> float:
    """The share of prompt tokens saved if the prefix is computed once."""
    return SHARED * (requests - 1) / (requests * (SHARED + OWN))


def targets(found: list[Measured[SharingPair]], requests: int) -> list[Target]:
    """The targets for the saved share and for equal answers."""
    saved = median(measured.outcome.saved for measured in found)
    same = min(measured.outcome.same for measured in found)
    return [
        target("prefill saved, of what can be saved", saved / max_saved(requests), MIN_SAVED_SHARE),
        target("same answers with and without sharing", same, 1.0),
    ]


def rows_of(found: list[Measured[SharingPair]], requests: int) -> list[Row]:
    """One row for each setting, and their ratio."""
    pairs = [measured.outcome for measured in found]
    faster = paired(_walls(pairs, _unshared), _walls(pairs, _shared))
    assert faster
    return [
        _row("shared", pairs, _shared),
        _row("not shared", pairs, _unshared),
        {
            "speed-up": faster.median,
            "low": faster.low,
            "high": faster.high,
            "saved": median(pair.saved for pair in pairs),
            "most_saved": max_saved(requests),
            "same_answers": min(pair.same for pair in pairs),
            "most_foreign": max(measured.load.foreign for measured in found),
            "foreign": [measured.load.foreign for measured in found],
        },
    ]


def _pair(on: EngineProcess, off: EngineProcess, requests: int, seed: int) -> SharingPair:
    """Run both settings; the seed gives new tokens, so that nothing is cached from before."""
    sequences = [
        Sequence(request.id, request.prompt, max_tokens=request.tokens, reserve=request.tokens)
        for request in prefixed_requests(
            requests, shared=SHARED, own=OWN, generated=GENERATED, seed=seed
        )
    ]
    return SharingPair(shared=on.run(sequences), unshared=off.run(sequences))


def _row(name: str, pairs: list[SharingPair], side: Callable[[SharingPair], RunTrace]) -> Row:
    walls = _walls(pairs, side)
    return {
        "prefix": name,
        "prefilled": median(prefilled(side(pair)) for pair in pairs),
        "wall_s": median(walls),
        "walls_s": walls,
        "rounds": len(pairs),
    }


def _shared(pair: SharingPair) -> RunTrace:
    return pair.shared


def _unshared(pair: SharingPair) -> RunTrace:
    return pair.unshared


def _walls(pairs: list[SharingPair], side: Callable[[SharingPair], RunTrace]) -> list[float]:
    return [side(pair).wall_s for pair in pairs]


def _report_run(report: Report, measured: Measured[SharingPair]) -> None:
    pair = measured.outcome
    report.say(
        f"shared {pair.shared.wall_s:.1f} s, {prefilled(pair.shared):,.0f} prompt tokens computed; "
        f"not shared {pair.unshared.wall_s:.1f} s, {prefilled(pair.unshared):,.0f}; "
        f"same answers {pair.same:.0%}; {measured}"
    )
