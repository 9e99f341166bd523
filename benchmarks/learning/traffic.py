"""Requests of several apps whose mix changes in the middle, and how they are sent."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

import httpx
from msgspec import Struct

from benchmarks.live.open_loop import TimedBody, completion, send_timed
from gateway.evaluation.corpus import CorpusLine

# Both halves have apps with answers in proportion to the input and open ones, and about the same
# mean length of SmolLM2's answers, so that the change of the mix is none of the load.
FIRST: Final = ("grammar", "staff_qa", "translate_de_en")
SECOND: Final = ("assistant", "detox", "summarise_dialogue")
MAJORITY_SHARE: Final = 0.9  # of the traffic, of one half's apps
MAX_TOKENS: Final = 150
TEMPERATURE: Final = 0.7
TOP_P: Final = 0.95


class PlannedRequest(Struct, frozen=True):
    """A line to send `at_s` seconds after the start."""

    at_s: float
    line: CorpusLine
    seed: int


class Answer(Struct, frozen=True):
    """A request's id, and the seconds from its time to its complete answer."""

    request_id: str
    response_s: float


def plan(
    lines: Sequence[CorpusLine], count: int, seed: int, rate_s: float | None = None
) -> list[PlannedRequest]:
    """`count` requests, no line twice: Poisson arrivals at a rate, or all at once.

    From the middle on the apps that had a tenth of the traffic have nine tenths. ValueError if an
    app has too few lines.
    """
    rng, gaps = Random(seed), Random(seed + 1)
    remaining = {
        app: [line for line in lines if line.app == app] for app in sorted({*FIRST, *SECOND})
    }
    for own in remaining.values():
        rng.shuffle(own)
    planned, at_s = [], 0.0
    for number in range(count):
        share = MAJORITY_SHARE if number < count // 2 else 1 - MAJORITY_SHARE
        app = rng.choice(FIRST if rng.random() < share else SECOND)
        if not remaining[app]:
            raise ValueError(f"the app {app} has too few lines for {count} requests")
        planned.append(PlannedRequest(at_s, remaining[app].pop(), number))
        at_s += gaps.expovariate(rate_s) if rate_s else 0.0
    return planned


class Client:
    """Sends requests to one gateway, each with the key of its app; `on_answer` gets their count."""

    def __init__(
        self, url: str, model: str, keys: Mapping[str, str], on_answer: Callable[[int], None]
    ) -> None:
        self._url = url
        self._model = model
        self._keys = keys
        self._on_answer = on_answer
        self._answered = 0
        self._one_more = asyncio.Condition()

    async def wait_until_answered(self, count: int) -> None:
        """Return once `count` requests of the present `send` are answered."""
        async with self._one_more:
            await self._one_more.wait_for(lambda: self._answered >= count)

    async def send(self, planned: Sequence[PlannedRequest]) -> list[Answer]:
        """The answers in the order of the plan. RuntimeError if a request fails."""
        self._answered, self._one_more = 0, asyncio.Condition()
        timed = [
            TimedBody(each.at_s, body(self._model, each), self._keys[each.line.app])
            for each in planned
        ]
        return await send_timed(self._url, timed, self._received)

    async def _received(self, response: httpx.Response, response_s: float) -> Answer:
        answer = Answer(completion(response)["id"], response_s)
        async with self._one_more:
            self._answered += 1
            self._one_more.notify_all()
        self._on_answer(self._answered)
        return answer


def body(model: str, planned: PlannedRequest) -> dict[str, Any]:
    """The body of a chat completion: the instruction as system message, sampled by the seed."""
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": planned.line.instruction},
            {"role": "user", "content": planned.line.input},
        ],
        "max_tokens": MAX_TOKENS,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "seed": planned.seed,
    }
