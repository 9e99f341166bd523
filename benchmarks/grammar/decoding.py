"""Decoding of a batch whose sequences have a grammar, against the same batch without."""

from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from benchmarks.engine.client import EngineProcess, RunTrace
from benchmarks.harness.retry import Measured, quietest
from engine.protocol import Sampling, Sequence
from gateway.generation.grammar.schemas import json_grammar

BATCH: Final = 32
PROMPT: Final = 64
GENERATED: Final = 96
# A text of it is longer than what is generated, so both sides decode the same number of tokens.
LONG: Final = json_grammar(
    {
        "type": "object",
        "properties": {
            "notes": {"type": "array", "items": {"type": "string", "minLength": 8}, "minItems": 60}
        },
        "required": ["notes"],
    }
)
SAMPLINGS: Final = {"greedy": 0.0, "temperature 1": 1.0}


class Pair(Struct, frozen=True):
    """A run without grammars and one with them, right after."""

    free: Measured[RunTrace]
    constrained: Measured[RunTrace]


def pairs(model: Path, rounds: int, threads: int, temperature: float) -> list[Pair]:
    """Runs of one engine in turns."""
    free = [
        Sequence(
            f"s{n}",
            [(7 * n + 3 * place) % 800 + 20 for place in range(PROMPT)],
            max_tokens=GENERATED,
            reserve=GENERATED,
            sampling=Sampling(temperature, seed=n),
        )
        for n in range(BATCH)
    ]
    constrained = [structs.replace(each, grammar=LONG) for each in free]
    with EngineProcess(
        "grammar", model, engine_threads=threads, kv_tokens=16_384, prefix_sharing=False
    ) as engine:
        engine.run(free)
        engine.run(constrained)
        measured = []
        for _ in range(rounds):
            both = [quietest(partial(_run, engine, side), _ignore) for side in (free, constrained)]
            measured.append(Pair(*both))
    return measured


def step_ms(runs: list[Measured[RunTrace]]) -> float:
    """Mean milliseconds of a step."""
    steps = sum(run.outcome.counted["steps"] for run in runs)
    return 1000 * sum(run.outcome.counted["steps_s"] for run in runs) / steps


def _run(engine: EngineProcess, sequences: list[Sequence]) -> RunTrace:
    trace = engine.run(sequences)
    assert not trace.failed, trace.finishes
    assert trace.generated == BATCH * GENERATED, "a sequence ended early"
    return trace


def _ignore(_: Measured[RunTrace]) -> None:
    """Nothing is reported between the runs of a pair."""
