"""The mixed jobs: prefix groups of 1 to 64 lines, answers of two families, exact lengths."""

from random import Random
from typing import Final

from msgspec import Struct

from benchmarks.engine.workload import RESERVED_IDS, VOCABULARY, Request

DEGREES: Final = (1, 2, 4, 8, 16, 32, 64)  # lines of a group; each degree has as many lines
OWN: Final = (8, 48)
SHORT: Final = (4, 16)  # tokens of an answer: labels
LONG: Final = (48, 128)  # and texts; a group has one of the two


class JobKind(Struct, frozen=True):
    """A mixed job: the tokens that a prefix has, uniform, and the lines of each degree."""

    name: str
    prefix: tuple[int, int]
    lines_of_degree: int


INSTRUCTIONS: Final = JobKind("instructions", (32, 384), 64)
DOCUMENTS: Final = JobKind("documents", (512, 1_536), 32)
KINDS: Final = (INSTRUCTIONS, DOCUMENTS)


def mixed_job(kind: JobKind, seed: int, lines_of_degree: int | None = None) -> list[Request]:
    """The job's lines, shuffled. Another seed gives other lengths, tokens and order."""
    rng = Random(seed)
    lines: list[Request] = []
    count = lines_of_degree or kind.lines_of_degree
    for degree in DEGREES:
        for group in range(max(count // degree, 1)):
            prefix = _tokens(rng, rng.randint(*kind.prefix))
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
