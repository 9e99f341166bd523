"""The job of BatchLLM's benchmark (arXiv 2412.03594): groups of lines with a long shared prefix."""

from random import Random
from typing import Final

from msgspec import Struct

from benchmarks.engine.workload import RESERVED_IDS, VOCABULARY, Request

SHARED: Final = 2_000  # tokens of a group's prefix
OWN: Final = 200
ANSWER: Final = 100
PAGE_TOKENS: Final = 16

NESTED: Final = (4, 8, 4)  # instructions, documents of each, lines of each
INSTRUCTION: Final = 608  # tokens
DOCUMENT: Final = 1_200
QUESTION: Final = 192


class JobLines(Struct, frozen=True):
    """The lines of a job, and the prompt tokens that are computed if each shared one is so once."""

    shape: str
    lines: list[Request]
    least: int

    @property
    def logical(self) -> int:
        """Prompt tokens of all lines."""
        return sum(len(line.prompt) for line in self.lines)


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


def nested_job(seed: int) -> JobLines:
    """Questions on documents, each below one of several instructions; shuffled."""
    rng = Random(seed)
    instructions, documents, questions = NESTED
    made = []
    for n in range(instructions):
        instruction = random_tokens(rng, INSTRUCTION)
        for m in range(documents):
            prefix = [*instruction, *random_tokens(rng, DOCUMENT)]
            made += [
                Request(f"{n}-{m}-{k}", [*prefix, *random_tokens(rng, QUESTION)], ANSWER)
                for k in range(questions)
            ]
    rng.shuffle(made)
    least = instructions * (INSTRUCTION + documents * (DOCUMENT + questions * QUESTION))
    return JobLines("nested", made, least)


def group_of(line: Request) -> int:
    """The number of a line's group."""
    return int(line.id.partition("-")[0])


def random_tokens(rng: Random, count: int) -> list[int]:
    """Token ids of a prompt."""
    return [rng.randrange(RESERVED_IDS, VOCABULARY) for _ in range(count)]
