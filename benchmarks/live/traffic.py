"""Chat requests with answers of given lengths, sent to a real gateway when they are due."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from math import exp, log
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Final

import httpx
from msgspec import Struct

from benchmarks.live.gateway_process import API_KEY
from gateway.demo.examples import read_examples
from gateway.settings import DEMO_MODEL

WORDS: Final = (2, 40)  # of a question, uniform
MEDIAN: Final = 110  # tokens of an answer, log-normal, clipped
SPREAD: Final = 0.75  # standard deviation of its logarithm
ANSWER: Final = (8, 640)
TIMEOUT_S: Final = 600.0


class Planned(Struct, frozen=True):
    """A request, and when it is sent, in seconds from the start."""

    at_s: float
    question: str
    tokens: int
    seed: int


def plan(count: int, seed: int, rate_s: float | None = None) -> list[Planned]:
    """The first requests of a seed: Poisson at a rate, or all at once; the same every time."""
    shapes, gaps = Random(seed), Random(seed + 1)
    words = sorted(set(chain.from_iterable(_examples())))
    planned, at_s = [], 0.0
    for number in range(count):
        question = " ".join(shapes.choices(words, k=shapes.randint(*WORDS)))
        planned.append(Planned(at_s, question, _tokens(shapes), number))
        at_s += gaps.expovariate(rate_s) if rate_s else 0.0
    return planned


def send(url: str, requests: Sequence[Planned]) -> list[float]:
    """Seconds from when each was due to its whole answer. RuntimeError for a wrong answer."""
    return asyncio.run(_send(url, requests))


def _examples() -> Iterator[list[str]]:
    for questions in read_examples(str(DEMO_MODEL)).values():
        for question in questions:
            yield question.split()


def _tokens(rng: Random) -> int:
    least, most = ANSWER
    return min(max(round(exp(rng.gauss(log(MEDIAN), SPREAD))), least), most)


async def _send(url: str, requests: Sequence[Planned]) -> list[float]:
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=TIMEOUT_S,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    ) as client:
        ends = _end_tokens(DEMO_MODEL)
        start_s = perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_ask(client, request, start_s + request.at_s, ends))
                for request in requests
            ]
        return [task.result() for task in tasks]


async def _ask(
    client: httpx.AsyncClient, request: Planned, due_s: float, ends: dict[str, float]
) -> float:
    await asyncio.sleep(due_s - perf_counter())
    response = await client.post("/v1/chat/completions", json=_body(request, ends))
    if response.is_error:
        raise RuntimeError(f"a request failed: {response.text[:500]}")
    generated = response.json()["usage"]["completion_tokens"]
    if generated != request.tokens:
        raise RuntimeError(f"{generated} tokens were generated where {request.tokens} were due")
    return perf_counter() - due_s


def _body(request: Planned, ends: dict[str, float]) -> dict[str, Any]:
    """No token may end the answer, so its length is what it may have at most."""
    return {
        "model": DEMO_MODEL.name,
        "messages": [{"role": "user", "content": request.question}],
        "max_tokens": request.tokens,
        "seed": request.seed,
        "logit_bias": ends,
    }


def _end_tokens(model: Path) -> dict[str, float]:
    """A bias against every token that ends an answer."""
    ends = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    return {str(token): -100.0 for token in (ends if isinstance(ends, list) else [ends])}
