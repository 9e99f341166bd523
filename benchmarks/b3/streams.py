"""Sends streamed chat completions at given times, and notes when their tokens arrive."""

import asyncio
import json
from collections.abc import Sequence
from time import perf_counter
from typing import Final

import httpx
from msgspec import Struct

from benchmarks.live.open_loop import TIMEOUT_S, TimedBody

DATA: Final = "data: "
DONE: Final = "[DONE]"


class Streamed(Struct, frozen=True):
    """An answer: seconds from the request's time to its first and last text, and its tokens."""

    first_s: float
    last_s: float
    tokens: int

    @property
    def token_s(self) -> float | None:
        """Seconds of a token after the first; None for an answer of one."""
        return (self.last_s - self.first_s) / (self.tokens - 1) if self.tokens > 1 else None


def send_streamed(url: str, requests: Sequence[TimedBody]) -> list[Streamed]:
    """Their answers, in order. RuntimeError if one fails."""
    return asyncio.run(_send(url, requests))


async def _send(url: str, requests: Sequence[TimedBody]) -> list[Streamed]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        start_s = perf_counter()

        async def send(request: TimedBody) -> Streamed:
            due_s = start_s + request.at_s
            await asyncio.sleep(due_s - perf_counter())
            return await _stream(client, request, due_s)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(send(request)) for request in requests]
    return [task.result() for task in tasks]


async def _stream(client: httpx.AsyncClient, request: TimedBody, due_s: float) -> Streamed:
    """Read one answer; its times count from `due_s`."""
    first_s = last_s = None
    tokens = 0
    async with client.stream(
        "POST",
        "/v1/chat/completions",
        json=request.body,
        headers={"Authorization": f"Bearer {request.key}"},
    ) as response:
        if response.is_error:
            raise RuntimeError(f"a request failed: {(await response.aread())[:500]!r}")
        async for line in response.aiter_lines():
            if not line.startswith(DATA) or line == DATA + DONE:
                continue
            event = json.loads(line.removeprefix(DATA))
            if event.get("choices") and event["choices"][0]["delta"].get("content"):
                last_s = perf_counter() - due_s
                first_s = first_s or last_s
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    if first_s is None or last_s is None or tokens != request.body["max_tokens"]:
        raise RuntimeError(f"an answer has {tokens} tokens, not {request.body['max_tokens']}")
    return Streamed(first_s, last_s, tokens)
