"""Sends chat completions at given times, whether earlier ones are answered or not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

import httpx
from msgspec import Struct

from benchmarks.live.gateway_process import API_KEY

TIMEOUT_S: Final = 900.0

T = TypeVar("T")


class TimedBody(Struct, frozen=True):
    """The body of a chat completion, the time to send it in seconds from the start, and the key."""

    at_s: float
    body: dict[str, Any]
    key: str = API_KEY


async def send_timed(
    url: str,
    requests: Sequence[TimedBody],
    received: Callable[[httpx.Response, float], Awaitable[T]],
) -> list[T]:
    """What `received` makes of each response, in the order of the requests.

    It gets the response and the seconds from the request's time to its end.
    """
    async with httpx.AsyncClient(
        base_url=url,
        timeout=TIMEOUT_S,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    ) as client:
        start_s = perf_counter()

        async def send(request: TimedBody) -> T:
            due_s = start_s + request.at_s
            await asyncio.sleep(due_s - perf_counter())
            response = await client.post(
                "/v1/chat/completions",
                json=request.body,
                headers={"Authorization": f"Bearer {request.key}"},
            )
            return await received(response, perf_counter() - due_s)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(send(request)) for request in requests]
    return [task.result() for task in tasks]


def completion(response: httpx.Response) -> dict[str, Any]:
    """The completion. RuntimeError if the request failed."""
    if response.is_error:
        raise RuntimeError(f"a request failed: {response.text[:500]}")
    found: dict[str, Any] = response.json()
    return found
