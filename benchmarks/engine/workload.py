"""The requests for the contestants; deterministic."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from random import Random
from statistics import NormalDist
from typing import Final

VOCABULARY: Final = 8192
RESERVED_IDS: Final = 3  # padding, start, end: never used

MIXED: Final = 128
MIXED_SEED: Final = 2087  # of 4000 seeds, the one with totals closest to the published workload's
PROMPT: Final = (32, 256)  # tokens, uniform
GENERATION: Final = (8, 256)  # tokens, log-normal, clipped
MEDIAN: Final = 62
LOG_SD: Final = 0.75  # standard deviation of the log length


@dataclass(frozen=True)
class Request:
    """A prompt, and the exact number of tokens to generate."""

    id: str
    prompt: list[int]
    tokens: int


def mixed_requests(count: int = MIXED) -> list[Request]:
    """The first requests of the mix that E1 and E3 run."""
    rng = Random(MIXED_SEED)
    lengths = [(_prompt_tokens(rng), _generated_tokens(rng)) for _ in range(MIXED)]
    ids = _token_ids(MIXED_SEED)
    requests = [
        Request(f"r{number:03}", [next(ids) for _ in range(prompt)], generated)
        for number, (prompt, generated) in enumerate(lengths)
    ]
    return requests[:count]


def prefixed_requests(
    count: int, *, shared: int, own: int, generated: int, seed: int = 0
) -> list[Request]:
    """Requests with a common prefix of `shared` tokens, followed by `own` tokens each.

    Another seed gives other tokens.
    """
    ids = _token_ids(seed)
    prefix = [next(ids) for _ in range(shared)]
    return [
        Request(f"p{number:03}", [*prefix, *(next(ids) for _ in range(own))], generated)
        for number in range(count)
    ]


def even_requests(count: int, prompt: int, generated: int) -> list[Request]:
    """Requests of equal lengths and different tokens."""
    return prefixed_requests(count, shared=0, own=prompt, generated=generated)


def warmup_requests(requests: list[Request]) -> list[Request]:
    """A few short requests to warm up a contestant."""
    return [Request(f"w{request.id}", request.prompt[:32], 4) for request in requests[:4]]


def _prompt_tokens(rng: Random) -> int:
    low, high = PROMPT
    return low + int(rng.random() * (high - low + 1))


def _generated_tokens(rng: Random) -> int:
    low, high = GENERATION
    length = exp(log(MEDIAN) + LOG_SD * NormalDist().inv_cdf(rng.random()))
    return min(max(round(length), low), high)


def _token_ids(seed: int) -> Iterator[int]:
    rng = Random(seed)
    while True:
        yield RESERVED_IDS + int(rng.random() * (VOCABULARY - RESERVED_IDS))
