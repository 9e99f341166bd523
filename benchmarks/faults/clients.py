"""Clients with a steady mix of requests, and a log of what each got."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any, Final
from uuid import UUID

import httpx
from msgspec import Struct

from engine.demo.jobs import JOBS

MODEL: Final = "lmaas-demo"
CHAT: Final = "/v1/chat/completions"
WAIT_S: Final = 120.0  # of a client for the next byte
RETRY_S: Final = 0.2  # while the gateway itself is away
KINDS: Final = 24  # requests that differ; each is sent again and again
NOT_ACCEPTED: Final = ("starting", "shutting_down")

Body = dict[str, Any]


class Answer(Struct, frozen=True):
    """What one request got: the texts of its choices, or why it failed.

    `began_s` and `ended_s` are of the monotonic clock; `attempts` counts those that no gateway
    accepted too.
    """

    kind: int
    began_s: float
    ended_s: float
    attempts: int = 1
    id: UUID | None = None
    texts: tuple[str, ...] = ()
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether every choice came to its end."""
        return not self.failure


def bodies(seed: int) -> list[Body]:
    """Requests of the demo model's jobs: greedy and seeded, one and three choices, streams."""
    random = Random(seed)
    made = []
    for kind in range(KINDS):
        exchange = random.choice(JOBS).draw(random)
        streamed, several, greedy, penalised = (
            kind % 2 == 0,
            kind % 6 == 1,
            kind % 3 == 0,
            kind % 5 == 0,
        )
        body: Body = {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": exchange.instruction},
                {"role": "user", "content": exchange.question},
            ],
            "stream": streamed,
            "n": 3 if several else 1,
            "temperature": 0 if greedy else 0.8,
        }
        if not greedy:
            body["seed"] = kind
        if penalised:
            body |= {"frequency_penalty": 0.4, "presence_penalty": 0.2}
        made.append(body)
    return made


class Clients:
    """Sends requests to one gateway, and keeps what each got."""

    def __init__(self, url: str, key: str, kinds: Sequence[Body]) -> None:
        self.answers: list[Answer] = []
        self._kinds = kinds
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=WAIT_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, kind: int) -> Answer:
        """Send a request until a gateway accepts it, and keep its answer."""
        began_s, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            try:
                answer = await self._ask_once(kind, began_s, attempts)
            except httpx.ConnectError:
                answer = None
            if answer is not None:
                self.answers.append(answer)
                return answer
            if time.monotonic() - began_s > WAIT_S:
                raise RuntimeError(f"no gateway accepted a request for {WAIT_S:.0f} s")
            await asyncio.sleep(RETRY_S)

    async def leave(self, kind: int) -> None:
        """Send a request and close the connection after the first bytes of its answer."""
        body = {**self._kinds[kind], "stream": True}
        with suppress(httpx.HTTPError):
            async with self._http.stream("POST", CHAT, json=body) as response:
                await anext(response.aiter_bytes())

    async def _ask_once(self, kind: int, began_s: float, attempts: int) -> Answer | None:
        """The answer; None if the gateway was about to start or stop. ConnectError if away."""
        body, found, failure = self._kinds[kind], None, ""
        texts = [""] * int(body["n"])
        try:
            async with self._http.stream("POST", CHAT, json=body) as response:
                if not response.is_success:
                    code = _code(await response.aread())
                    if code in NOT_ACCEPTED:
                        return None
                    failure = f"{response.status_code} {code}"
                elif body["stream"]:
                    found, failure = await _read_stream(response, texts)
                else:
                    whole = json.loads(await response.aread())
                    found = whole["id"]
                    texts = [choice["message"]["content"] for choice in whole["choices"]]
        except httpx.ConnectError:
            raise
        except httpx.HTTPError as error:
            failure = type(error).__name__
        answered = None if found is None else UUID(found.rpartition("-")[2])
        ended_s = time.monotonic()
        return Answer(kind, began_s, ended_s, attempts, answered, tuple(texts), failure)


async def _read_stream(response: httpx.Response, texts: list[str]) -> tuple[str | None, str]:
    """Add the stream's text to `texts`; returns the answer's id and why it is not whole."""
    found, failure = None, "stream ended early"
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            failure = failure if failure.startswith("error") else ""
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                failure = f"error {event['error']['code']}"
                continue
            found = event["id"]
            for choice in event["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
    return found, failure


def _code(content: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)["error"]["code"])
    return "no error body"
