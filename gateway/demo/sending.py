"""Sends planned traffic through the official `openai` client."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import openai
from msgspec import Struct

from gateway.demo.traffic import Arrival
from gateway.errors import LmaasError

TIMEOUT_S = 300.0


class Outcome(Struct, frozen=True):
    """What came of a request: lengths in tokens, and seconds from its arrival to its answer."""

    app: str
    predicted: int
    actual: int
    response_s: float
    batch: str


class Sender:
    """Requests to one gateway and model, each with the key of its app."""

    def __init__(self, url: str, model: str, keys: Mapping[str, str], concurrency: int) -> None:
        self._url = url
        self._model = model
        self._keys = keys
        self._concurrency = concurrency

    async def send(self, plan: Sequence[Arrival], ended: Callable[[], None]) -> list[Outcome]:
        """The outcomes in the order of the plan; `ended` is called after each.

        Arrivals do not wait for answers; one that finds `concurrency` requests open waits for its
        turn, and that is part of its response time. LmaasError at the first request that fails.
        """
        open_ones = asyncio.Semaphore(self._concurrency)
        async with openai.AsyncOpenAI(
            base_url=f"{self._url}/v1", api_key="each has its own", max_retries=0, timeout=TIMEOUT_S
        ) as client:
            start_s = asyncio.get_running_loop().time()

            async def send_one(arrival: Arrival) -> Outcome:
                outcome = await self._ask(client, arrival, start_s + arrival.at_s, open_ones)
                ended()
                return outcome

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(send_one(arrival)) for arrival in plan]
            except* openai.OpenAIError as failures:
                raise LmaasError(f"a request failed: {_first(failures)}") from failures
            return [task.result() for task in tasks]

    async def _ask(
        self,
        client: openai.AsyncOpenAI,
        arrival: Arrival,
        due_s: float,
        open_ones: asyncio.Semaphore,
    ) -> Outcome:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(due_s - clock())
        async with open_ones:
            raw = await client.with_options(
                api_key=self._keys[arrival.app]
            ).chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": arrival.question}],
                temperature=arrival.temperature,
                seed=arrival.seed,
            )
        response_s = clock() - due_s
        usage = raw.parse().usage
        assert usage is not None, "a whole answer always tells its usage"
        return Outcome(
            app=arrival.app,
            predicted=int(raw.headers["x-lmaas-predicted-tokens"]),
            actual=usage.completion_tokens,
            response_s=response_s,
            batch=raw.headers["x-lmaas-batch"],
        )


def _first(failures: BaseExceptionGroup[openai.OpenAIError]) -> str:
    """The words of the first failure in a group."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return str(failure)
