"""The interactive requests: Poisson arrivals, prompts and answers of a seeded mix."""

from collections.abc import Sequence
from math import exp, log
from random import Random
from typing import Any, Final

from msgspec import Struct

from benchmarks.engine.workload import RESERVED_IDS, VOCABULARY
from benchmarks.live.open_loop import TimedBody

PROMPT: Final = (16, 96)  # tokens, uniform
ANSWER: Final = (4, 64)  # tokens, log-normal, clipped
MEDIAN: Final = 16
LOG_SD: Final = 0.6  # standard deviation of the log length


class Shape(Struct, frozen=True):
    """A request without its text: its time in seconds, and tokens of prompt and answer."""

    at_s: float
    prompt: int
    answer: int


def shapes(count: int, seed: int, rate_s: float | None) -> list[Shape]:
    """Poisson arrivals at a rate, or all at once."""
    rng, gaps = Random(seed), Random(seed + 1)
    found, at_s = list[Shape](), 0.0
    for _ in range(count):
        at_s += gaps.expovariate(rate_s) if rate_s else 0.0
        found.append(Shape(at_s, rng.randint(*PROMPT), _answer(rng)))
    return found


def bodies(requests: Sequence[Shape], model: str, seed: int) -> list[TimedBody]:
    """Streamed chat completions of these shapes; another seed gives other words."""
    rng = Random(seed)
    return [TimedBody(each.at_s, _body(each, model, rng)) for each in requests]


def words(rng: Random, count: int) -> str:
    """A text of `count` tokens: each number is one in the model's tokenizer."""
    return " ".join(str(rng.randrange(RESERVED_IDS, VOCABULARY)) for _ in range(count))


def _answer(rng: Random) -> int:
    shortest, longest = ANSWER
    return min(max(round(exp(rng.gauss(log(MEDIAN), LOG_SD))), shortest), longest)


def _body(shape: Shape, model: str, rng: Random) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": words(rng, shape.prompt)}],
        "max_tokens": shape.answer,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
