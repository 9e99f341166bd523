"""A gateway in front of an OpenAI-compatible server: here another gateway, which returns text."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from engine.demo.lexicon import VELAN
from tests.e2e.conftest import API_KEY

Asked = Callable[..., dict[str, Any]]
TWENTY = " ".join(list(VELAN)[:20])


@pytest.fixture(scope="module")
async def front(served: Any, start_gateway: Any) -> AsyncIterator[Any]:
    """The gateway in front."""
    gateway = start_gateway(
        "front", LMAAS_UPSTREAM=f"{served.url}/v1", LMAAS_UPSTREAM_API_KEY=API_KEY
    )
    yield await gateway.ready()
    assert await gateway.stop() == 0, gateway.errors.read_text()


@pytest.mark.parametrize("job", ["spell", "translate"])
async def test_answers_are_those_of_the_server(
    front: Any, client: openai.AsyncOpenAI, asked: Asked, job: str
) -> None:
    request = asked(job, TWENTY)
    direct: Any = await client.chat.completions.create(**request)
    async with front.client() as through:
        answer: Any = await through.chat.completions.create(**request)
        stream = await through.chat.completions.create(**request, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert answer.choices[0].message.content == direct.choices[0].message.content
    assert "".join(pieces) == direct.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == direct.usage.prompt_tokens
    estimated, true = answer.usage.completion_tokens, direct.usage.completion_tokens
    assert estimated == pytest.approx(true, abs=4), "encoded again, piece by piece"


async def test_stop_string_and_limit_end_answers(front: Any, asked: Asked) -> None:
    async with front.client() as through:
        whole = await through.chat.completions.create(**asked("spell", TWENTY))
        text = whole.choices[0].message.content or ""
        cut = await through.chat.completions.create(**asked("spell", TWENTY, stop=text[20:24]))
        short = await through.chat.completions.create(**asked("spell", TWENTY, max_tokens=5))
    assert cut.choices[0].message.content == text[: text.index(text[20:24])]
    assert (cut.choices[0].finish_reason, short.choices[0].finish_reason) == ("stop", "length")


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("logit_bias", {"5": -100}),
        ("logprobs", True),
        ("response_format", {"type": "json_object"}),
        ("top_k", 4),
        ("bad_words", ["word"]),
        ("memory", "host-exact"),
    ],
)
async def test_what_the_server_cannot_do_is_refused_by_name(
    front: Any, asked: Asked, param: str, value: object
) -> None:
    async with front.caller() as caller:
        body = {**asked("spell", "a word"), param: value}
        answer = await caller.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["code"] in {"unsupported_parameter", "invalid_value"}


async def test_operators_see_what_the_server_can_do(front: Any, served: Any) -> None:
    async with front.admin() as admin:
        info = (await admin.get("/admin/engine")).json()["info"]
        paused = await admin.post("/admin/engine/pause")
        lockstep = await admin.put("/admin/policy", json={"name": "magnus"})
    assert info["device"] == served.url
    assert info["probed"]["token_prompts"]
    assert not info["probed"]["token_answers"]
    assert "cannot" in info["refusals"]["logit_bias"]
    assert paused.status_code == 409
    assert (lockstep.status_code, lockstep.json()["error"]["param"]) == (400, "name")
