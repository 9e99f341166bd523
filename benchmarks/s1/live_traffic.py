"""Sends questions to a gateway at a rate, each with the key of its app and with `max_tokens`."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import httpx
from msgspec import Struct

from benchmarks.live.open_loop import TimedBody, completion, send_timed
from benchmarks.s1.live_models import LiveModel, Question


class PlannedQuestion(Struct, frozen=True):
    """A question, the time to send it in seconds from the start, and the seed of its answer."""

    at_s: float
    question: Question
    seed: int


def plan(
    questions: Sequence[Question], seed: int, rate_s: float | None = None
) -> list[PlannedQuestion]:
    """The questions in order: Poisson arrivals at a rate, or all at once."""
    gaps, at_s, planned = Random(seed), 0.0, []
    for number, question in enumerate(questions):
        planned.append(PlannedQuestion(at_s, question, number))
        at_s += gaps.expovariate(rate_s) if rate_s else 0.0
    return planned


def send(
    url: str, model: LiveModel, keys: Mapping[str, str], planned: Sequence[PlannedQuestion]
) -> list[int]:
    """Send the questions at their times; the tokens of their answers.

    RuntimeError for one that fails.
    """
    timed = [TimedBody(each.at_s, body(model, each), keys[each.question.app]) for each in planned]
    return asyncio.run(send_timed(url, timed, _tokens))


async def _tokens(response: httpx.Response, _response_s: float) -> int:
    return int(completion(response)["usage"]["completion_tokens"])


def body(model: LiveModel, planned: PlannedQuestion) -> dict[str, Any]:
    """The body of a chat completion; every request has the same `max_tokens`."""
    question = planned.question
    return {
        "model": model.name,
        "messages": [
            {"role": "system", "content": question.instruction},
            {"role": "user", "content": question.input},
        ],
        "max_tokens": model.max_answer,
        "temperature": question.temperature,
        "top_p": question.top_p,
        "seed": planned.seed,
    }
