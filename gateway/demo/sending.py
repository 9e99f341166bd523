"""Sends planned traffic through the official `openai` client."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import openai
from msgspec import Struct

from gateway.demo.traffic import PlannedRequest
from gateway.errors import LmaasError

TIMEOUT_S = 300.0


class DemoResult(Struct, frozen=True):
    """A completed request: lengths in tokens, seconds from arrival to answer, and batch id."""

    app: str
    predicted: int
    actual: int
    response_s: float
    batch: str


def served_model(url: str, key: str) -> str:
    """The name of the model that the gateway serves. LmaasError if it does not answer."""
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=TIMEOUT_S) as client:
            return client.models.list().data[0].id
    except openai.OpenAIError as error:
        raise LmaasError(f"the list of models failed: {error}") from error


class Sender:
    """Sends requests to one gateway and model, each with the key of its app."""

    def __init__(self, url: str, model: str, keys: Mapping[str, str], concurrency: int) -> None:
        self._url = url
        self._model = model
        self._keys = keys
        self._concurrency = concurrency

    async def send(
        self, plan: Sequence[PlannedRequest], ended: Callable[[], None]
    ) -> list[DemoResult]:
        """The results in the order of the plan; `ended` is called after each.

        Arrivals are open-loop: they do not wait for answers. At most `concurrency` requests are
        open; the wait for a free slot counts as response time. LmaasError at the first failure.
        """
        open_requests = asyncio.Semaphore(self._concurrency)
        async with openai.AsyncOpenAI(
            base_url=f"{self._url}/v1", api_key="each has its own", max_retries=0, timeout=TIMEOUT_S
        ) as client:
            start_s = asyncio.get_running_loop().time()

            async def send_one(planned: PlannedRequest) -> DemoResult:
                result = await self._ask(client, planned, start_s + planned.at_s, open_requests)
                ended()
                return result

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(send_one(planned)) for planned in plan]
            except* openai.OpenAIError as failures:
                raise LmaasError(f"a request failed: {_first(failures)}") from failures
            return [task.result() for task in tasks]

    async def _ask(
        self,
        client: openai.AsyncOpenAI,
        planned: PlannedRequest,
        due_s: float,
        open_requests: asyncio.Semaphore,
    ) -> DemoResult:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(due_s - clock())
        async with open_requests:
            response = await client.with_options(
                api_key=self._keys[planned.app.name]
            ).chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": planned.question}],
                temperature=planned.app.temperature,
                frequency_penalty=planned.app.frequency_penalty,
                max_tokens=planned.app.max_tokens,
                seed=planned.seed,
            )
        response_s = clock() - due_s
        usage = response.parse().usage
        assert usage is not None, "an answer that is not streamed has a usage"
        return DemoResult(
            app=planned.app.name,
            predicted=int(response.headers["x-lmaas-predicted-tokens"]),
            actual=usage.completion_tokens,
            response_s=response_s,
            batch=response.headers["x-lmaas-batch"],
        )


def _first(failures: BaseExceptionGroup[openai.OpenAIError]) -> str:
    """The message of the first failure in a group."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return str(failure)
