"""Asks a gateway for answers, several at once, and keeps their lengths."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import httpx
from msgspec import Struct

from benchmarks.live.gateway_process import API_KEY
from benchmarks.own_lengths.choice import Ask
from benchmarks.own_lengths.forms import FIELDS
from benchmarks.own_lengths.lengths_file import MAX_TOKENS, OwnLength

TEMPERATURE: Final = 0.7
TOP_P: Final = 0.95
TIMEOUT_S: Final = 1800.0
ENDING: Final = 50  # characters at an answer's end that are looked for earlier in it


class Conversation(Struct, frozen=True):
    """Where to ask: the gateway, its model's name, and the model's count of a text's tokens."""

    url: str
    model: str
    count_tokens: Callable[[str], int]


async def ask_all(
    where: Conversation, asks: Iterable[Ask], clients: int, keep: Callable[[OwnLength], None]
) -> None:
    """Ask for each answer; `keep` gets it at once. RuntimeError for one that failed."""
    waiting = iter(asks)
    async with (
        httpx.AsyncClient(
            base_url=where.url,
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(clients):
            group.create_task(_one_after_another(client, where, waiting, keep))


def repeats(answer: str) -> bool:
    """Whether an answer's last ENDING characters occur in it before."""
    return len(answer) > ENDING and answer[-ENDING:] in answer[:-1]


async def _one_after_another(
    client: httpx.AsyncClient,
    where: Conversation,
    waiting: Iterator[Ask],
    keep: Callable[[OwnLength], None],
) -> None:
    for ask in waiting:
        response = await client.post("/v1/chat/completions", json=_body(where.model, ask))
        if response.is_error:
            raise RuntimeError(f"an answer of {ask.line.app} failed: {response.text[:500]}")
        keep(_length(ask, where.count_tokens(ask.line.input), response.json()))


def _body(model: str, ask: Ask) -> dict[str, Any]:
    greedy = ask.kind == "greedy"
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": ask.line.instruction},
            {"role": "user", "content": ask.line.input},
        ],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0 if greedy else TEMPERATURE,
        "top_p": 1.0 if greedy else TOP_P,
        "seed": ask.seed,
        **FIELDS.get(ask.kind, {}),
    }


def _length(ask: Ask, input_tokens: int, answer: dict[str, Any]) -> OwnLength:
    choice, usage = answer["choices"][0], answer["usage"]
    return OwnLength(
        line=ask.id,
        app=ask.line.app,
        split=ask.split,
        kind=ask.kind,
        input_tokens=input_tokens,
        prompt_tokens=usage["prompt_tokens"],
        answer_tokens=usage["completion_tokens"],
        finish=choice["finish_reason"],
        repeats=repeats(choice["message"]["content"] or ""),
    )
