"""The job of BatchLLM's benchmark (arXiv 2412.03594): groups of lines with a long shared prefix."""

from random import Random
from typing import Final

from benchmarks.engine.workload import RESERVED_IDS, VOCABULARY, Request

SHARED: Final = 2_000  # tokens of a group's prefix
OWN: Final = 200
ANSWER: Final = 100
PAGE_TOKENS: Final = 16


def logical(lines: int) -> int:
    """Prompt tokens of all lines."""
    return lines * (SHARED + OWN)


def least(lines: int, degree: int) -> int:
    """Prompt tokens if the prefix of each group of `degree` lines is computed once."""
    return lines // degree * SHARED + lines * OWN


def job(lines: int, degree: int, seed: int) -> list[Request]:
    """Lines in groups of `degree`, shuffled."""
    rng = Random(seed)
    made = []
    for group in range(lines // degree):
        prefix = random_tokens(rng, SHARED)
        made += [
            Request(f"{group}-{n}", [*prefix, *random_tokens(rng, OWN)], ANSWER)
            for n in range(degree)
        ]
    rng.shuffle(made)
    return made


def group_of(line: Request) -> int:
    """The number of a line's group."""
    return int(line.id.partition("-")[0])


def random_tokens(rng: Random, count: int) -> list[int]:
    """Token ids of a prompt."""
    return [rng.randrange(RESERVED_IDS, VOCABULARY) for _ in range(count)]
