"""The batch job: prefix groups of equal size, answers of even lengths."""

from random import Random
from typing import Final

from benchmarks.b3.traffic import words
from benchmarks.live.batches import BatchLine, completion_line

DEGREE: Final = 16  # lines of a group
PREFIX: Final = 256  # tokens
OWN: Final = 32
ANSWER: Final = (16, 64)  # tokens, uniform


def job(lines: int, seed: int, model: str) -> list[BatchLine]:
    """The job's lines, shuffled."""
    rng, found = Random(seed), list[BatchLine]()
    for group in range(-(-lines // DEGREE)):
        prefix = words(rng, PREFIX)
        found += [
            completion_line(
                f"{group}-{member}", model, f"{prefix} {words(rng, OWN)}", rng.randint(*ANSWER)
            )
            for member in range(DEGREE)
        ]
    rng.shuffle(found)
    return found[:lines]
