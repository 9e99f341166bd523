"""Sends chat requests with given arrival times and answer lengths to a gateway."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from math import exp, log
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
from msgspec import Struct

from benchmarks.live.open_loop import TimedBody, send_timed
from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.demo.apps import read_apps

QUESTION_WORDS: Final = (2, 40)  # of a question, uniform
TOKENS_PER_WORD: Final = 8  # of an answer in proportion to its question, in the median
WORDS_SPREAD: Final = 0.3  # standard deviation of log words around that proportion
MEDIAN_TOKENS: Final = 110  # of an answer, log-normal
LOG_SPREAD: Final = 0.75  # standard deviation of log answer lengths
ANSWER_TOKENS: Final = (8, 640)


class PlannedRequest(Struct, frozen=True):
    """A request, with the time to send it in seconds from the start."""

    at_s: float
    question: str
    tokens: int
    seed: int


def plan(
    count: int, seed: int, rate_s: float | None = None, *, proportional: bool = False
) -> list[PlannedRequest]:
    """The first `count` requests of a seed: Poisson arrivals at a rate, or all at once.

    Answers do not depend on questions or, with `proportional`, are about as long as these.
    """
    shapes, gaps = Random(seed), Random(seed + 1)
    words = sorted(set(chain.from_iterable(_examples())))
    draw = _proportional if proportional else _independent
    planned, at_s = [], 0.0
    for number in range(count):
        question, tokens = draw(shapes, words)
        planned.append(PlannedRequest(at_s, question, tokens, number))
        at_s += gaps.expovariate(rate_s) if rate_s else 0.0
    return planned


class Answer(Struct, frozen=True):
    """An answer: its text, its tokens, and the seconds from the request's time to its end.

    `error` is what the gateway answered in its place.
    """

    text: str
    tokens: int
    response_s: float
    error: str | None = None


def send(url: str, requests: Sequence[PlannedRequest]) -> list[float]:
    """Seconds from each request's time to its complete answer. RuntimeError for a wrong one."""
    ends = end_tokens(DEMO_FOLDER)
    answers = ask(url, [TimedBody(request.at_s, body_of(request, ends)) for request in requests])
    for request, answer in zip(requests, answers, strict=True):
        if answer.error is not None:
            raise RuntimeError(f"a request failed: {answer.error}")
        if answer.tokens != request.tokens:
            raise RuntimeError(
                f"{answer.tokens} tokens were generated where {request.tokens} were due"
            )
    return [answer.response_s for answer in answers]


def ask(url: str, bodies: Sequence[TimedBody]) -> list[Answer]:
    """The answers, in the order of the bodies."""
    return asyncio.run(send_timed(url, bodies, _answer))


def _examples() -> Iterator[list[str]]:
    for app in read_apps(DEMO_FOLDER):
        for question in app.questions:
            yield question.split()


def _independent(rng: Random, words: Sequence[str]) -> tuple[str, int]:
    """A question, and the tokens of an answer that does not depend on it."""
    question = " ".join(rng.choices(words, k=rng.randint(*QUESTION_WORDS)))
    return question, _tokens(rng)


def _proportional(rng: Random, words: Sequence[str]) -> tuple[str, int]:
    """A question whose number of words says roughly how long the answer is, and its tokens."""
    tokens = _tokens(rng)
    size = round(tokens / TOKENS_PER_WORD * exp(rng.gauss(0, WORDS_SPREAD)))
    return " ".join(rng.choices(words, k=max(size, 1))), tokens


def _tokens(rng: Random) -> int:
    shortest, longest = ANSWER_TOKENS
    return min(max(round(exp(rng.gauss(log(MEDIAN_TOKENS), LOG_SPREAD))), shortest), longest)


async def _answer(response: httpx.Response, response_s: float) -> Answer:
    if response.is_error:
        return Answer("", 0, response_s, response.text[:500])
    answer = response.json()
    return Answer(
        answer["choices"][0]["message"]["content"],
        answer["usage"]["completion_tokens"],
        response_s,
    )


def body_of(request: PlannedRequest, ends: dict[str, float]) -> dict[str, Any]:
    """The body: end tokens are suppressed, so the answer has exactly max_tokens tokens."""
    return {
        "model": DEMO_FOLDER.name,
        "messages": [{"role": "user", "content": request.question}],
        "max_tokens": request.tokens,
        "seed": request.seed,
        "logit_bias": ends,
    }


def end_tokens(model: Path) -> dict[str, float]:
    """A bias that suppresses every end token."""
    ends = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    return {str(token): -100.0 for token in (ends if isinstance(ends, list) else [ends])}
