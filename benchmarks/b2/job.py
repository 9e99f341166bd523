"""The mixed job: prefix groups of 1 to 64 lines, answers of two families, exact lengths."""

from random import Random
from typing import Final

from benchmarks.engine.workload import RESERVED_IDS, VOCABULARY, Request

DEGREES: Final = (1, 2, 4, 8, 16, 32, 64)  # lines of a group; each degree has as many lines
LINES_OF_DEGREE: Final = 64
PREFIX: Final = (32, 384)  # tokens, uniform
OWN: Final = (8, 48)
SHORT: Final = (4, 16)  # tokens of an answer: labels
LONG: Final = (48, 128)  # and texts; a group has one of the two


def mixed_job(seed: int, lines_of_degree: int = LINES_OF_DEGREE) -> list[Request]:
    """The job's lines, shuffled. Another seed gives other lengths, tokens and order."""
    rng = Random(seed)
    lines: list[Request] = []
    for degree in DEGREES:
        for group in range(max(lines_of_degree // degree, 1)):
            prefix = _tokens(rng, rng.randint(*PREFIX))
            answer = LONG if group % 2 else SHORT
            lines += [
                Request(
                    f"{degree}-{group}-{member}",
                    [*prefix, *_tokens(rng, rng.randint(*OWN))],
                    rng.randint(*answer),
                )
                for member in range(degree)
            ]
    rng.shuffle(lines)
    return lines


def _tokens(rng: Random, count: int) -> list[int]:
    return [rng.randrange(RESERVED_IDS, VOCABULARY) for _ in range(count)]
