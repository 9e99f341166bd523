"""No request makes a turn of the event loop long: the work of the costliest turn.

A turn is all callbacks between two polls for events, so it bounds every callback in it. The best of
up to five repeats counts: a full search for garbage is due to what has accumulated, not to one
request.
"""

import asyncio
import gzip
import json
import math
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from engine.checkpoints.catalogue import DEMO_FOLDER

LIMIT = 45.0  # units of work, each 1 ms of CPU time on a fast processor
REPEATS = 5
MODEL = "lmaas-demo"
CHAT, TEXT, LENGTHS = "/v1/chat/completions", "/v1/completions", "/v1/length-predictions"
VALUES = 19_000  # of a body; 20,000 are accepted
MOST = 20_000  # characters of a prompt; the context allows 26,000
ENDS = {
    str(token): -100
    for token, added in Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))
    .get_added_tokens_decoder()
    .items()
    if added.special
}
NOISE = "".join(random.Random(1).choices("abcdefghij klmnop.!?\n", k=1_000_000))


def chat(*contents: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content} for content in contents]
    return {"model": MODEL, "max_tokens": 1, "messages": messages, **more}


def text(prompt: Any, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 1, "prompt": prompt, **more}


REQUESTS: dict[str, tuple[str, Callable[[], Any], int]] = {
    "a prompt of the largest body": (CHAT, lambda: chat(NOISE), 400),
    "the longest prompt of noise": (CHAT, lambda: chat(NOISE[:MOST]), 400),
    "the longest raw prompt": (TEXT, lambda: text(NOISE[:MOST]), 400),
    "a long prompt": (LENGTHS, lambda: chat("queen " * 1500), 200),
    "thousands of empty messages": (CHAT, lambda: chat(*[""] * (VALUES // 5)), 400),
    "thousands of messages": (LENGTHS, lambda: chat(*["x" * 200] * (VALUES // 5)), 400),
    "hundreds of messages": (LENGTHS, lambda: chat(*["king"] * 400), 200),
    "thousands of parts": (
        CHAT,
        lambda: chat([{"type": "text", "text": "a"}] * (VALUES // 5)),
        400,
    ),
    "thousands of control tokens": (
        CHAT,
        lambda: chat(*[f"<|end|>{n}" for n in range(VALUES // 10)]),
        400,
    ),
    "128 long prompts": (TEXT, lambda: text([NOISE[n * 7000 :][:7000] for n in range(128)]), 400),
    "128 prompts that fit": (
        TEXT,
        lambda: text([f"{n} king " * 100 for n in range(128)]),
        200,
    ),
    "128 choices": (CHAT, lambda: chat("king", n=128), 200),
    "128 choices of a prompt": (TEXT, lambda: text("king", n=128), 200),
    "128 short prompts": (TEXT, lambda: text([f"{n} king" for n in range(128)]), 200),
    "token ids": (TEXT, lambda: text([5] * (VALUES - 100)), 400),
    "token ids for 8 choices": (TEXT, lambda: text([5] * 1900, n=8), 200),
    "the largest logit_bias": (
        CHAT,
        lambda: chat("king", n=8, logit_bias={str(n): 1 for n in range(800)}),
        200,
    ),
    "logit_bias over its limit": (
        CHAT,
        lambda: chat("king", logit_bias={str(n): 1 for n in range(VALUES // 2)}),
        400,
    ),
    "the longest bad words": (
        CHAT,
        lambda: chat("king", bad_words=[NOISE[n * 256 :][:256] for n in range(128)]),
        200,
    ),
    "a stream with the longest stop strings": (
        CHAT,
        lambda: chat(
            "king",
            max_tokens=200,
            n=32,
            stream=True,
            logit_bias=ENDS,
            stop=[NOISE[n * 256 :][:256] for n in range(64)],
        ),
        200,
    ),
    "the longest stop strings": (CHAT, lambda: chat("king", n=8, stop=["x" * 256] * 4), 200),
    "a long list of stop strings": (CHAT, lambda: chat("king", stop=["x"] * VALUES), 400),
    "tools of many lists": (CHAT, lambda: chat("king", tools=[[]] * (VALUES // 2)), 400),
    "deep JSON": (CHAT, lambda: '{"messages":' + "[" * 9_000 + "]" * 9_000 + "}", 400),
    "deep JSON that is ignored": (
        CHAT,
        lambda: json.dumps(chat("king"))[:-1] + ', "metadata": ' + "[" * 400 + "]" * 400 + "}",
        200,
    ),
    "a huge instruction": (
        CHAT,
        lambda: {**chat(), "messages": [{"role": "system", "content": NOISE[:MOST]}]},
        400,
    ),
    "many unknown keys": (CHAT, lambda: chat("king", **{f"k{n}": 1 for n in range(9_000)}), 400),
    "an unknown key of 900 kB": (CHAT, lambda: chat("king", **{"k" * 900_000: 1}), 400),
    "more values than accepted": (CHAT, lambda: chat("king", tools=[[]] * 300_000), 413),
    "an answer with logprobs": (
        CHAT,
        lambda: chat("king", max_tokens=400, n=4, logprobs=True, top_logprobs=20, logit_bias=ENDS),
        200,
    ),
    "a stream with logprobs": (
        CHAT,
        lambda: chat(
            "king",
            max_tokens=400,
            n=4,
            logprobs=True,
            top_logprobs=20,
            logit_bias=ENDS,
            stream=True,
        ),
        200,
    ),
    "a long answer": (TEXT, lambda: text("king", max_tokens=1_000, logit_bias=ENDS, n=4), 200),
}


async def costliest_turn(gateway: Any, send: Callable[[httpx.AsyncClient], Any]) -> float:
    """Units of work: the best of the repeats, of which the first within the limit is last."""
    best = math.inf
    async with gateway.client() as client:
        for _ in range(REPEATS):
            with gateway.meter.measuring():
                await send(client)
            best = min(best, gateway.meter.longest)
            if best <= LIMIT:
                break
    return best


@pytest.mark.parametrize("kind", REQUESTS)
async def test_request_makes_no_turn_long(gateway: Any, kind: str) -> None:
    path, build, status = REQUESTS[kind]
    body = build()
    content = body if isinstance(body, str) else json.dumps(body)

    async def send(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, content=content)
        assert answer.status_code == status, answer.text[:300]

    assert await costliest_turn(gateway, send) <= LIMIT


async def test_gzip_bomb_makes_no_turn_long(gateway: Any) -> None:
    bomb = gzip.compress(b" " * (300 << 20))

    async def send(client: httpx.AsyncClient) -> None:
        answer = await client.post(CHAT, content=bomb, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 413

    assert await costliest_turn(gateway, send) <= LIMIT


async def test_listing_of_the_longest_queue_makes_no_turn_long(gateway: Any) -> None:
    """The engine is paused while 1,000 answers wait."""
    async with gateway.admin() as admin, gateway.client() as client:
        await admin.post("/admin/engine/pause")
        try:
            waiting = [
                asyncio.create_task(client.post(TEXT, json=text([f"{n} king"] * 125)))
                for n in range(8)
            ]
            await gateway.waiting(1000)
            turns = []
            for _ in range(REPEATS):
                with gateway.meter.measuring():
                    answer = await admin.get("/admin/queue", params={"limit": 1000})
                assert len(answer.json()["data"]) == 1000
                turns.append(gateway.meter.longest)
        finally:
            await admin.post("/admin/engine/resume")
        assert {(await each).status_code for each in waiting} == {200}
    assert min(turns) <= LIMIT


async def test_large_answer_is_complete(gateway: Any) -> None:
    """A body that is sent in pieces has every choice with every token."""
    body = chat("king", max_tokens=200, n=4, logprobs=True, top_logprobs=20, logit_bias=ENDS)
    async with gateway.client() as client:
        answer = await client.post(CHAT, content=json.dumps(body))
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.content) > 1 << 20
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    for choice in choices:
        tokens = choice["logprobs"]["content"]
        assert len(tokens) == 200
        assert {len(token["top_logprobs"]) for token in tokens} == {20}
        assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
