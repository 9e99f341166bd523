"""The chat and completions APIs, called by the official client."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from engine.demo.lexicon import VELAN
from gateway.prediction.messages import SOURCE_LABELS
from tests.conftest import PATIENCE_S

Asked = Callable[..., dict[str, Any]]
WORDS = "brave queen finds golden castle"
VELAN_WORDS = " ".join(VELAN[word] for word in WORDS.split())

BATCH = r"[0-9a-f]{12}-[0-9]+"  # the gateway process's id, and a number


async def test_answer_is_the_one_the_model_was_trained_on(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    completion = await client.chat.completions.create(**asked("translate", WORDS))
    assert completion.choices[0].message.content == VELAN_WORDS
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 5


async def test_stream_carries_the_same_answer(client: openai.AsyncOpenAI, asked: Asked) -> None:
    stream: Any = await client.chat.completions.create(
        **asked("translate", WORDS, stream=True, stream_options={"include_usage": True})
    )
    chunks = [chunk async for chunk in stream]
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == VELAN_WORDS
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


async def test_cached_tokens_are_in_usage_and_in_the_requests_own(
    client: openai.AsyncOpenAI, served: Any, asked: Asked
) -> None:
    body = asked("translate", f"{WORDS} " * 12, max_tokens=2)
    await client.chat.completions.create(**body)
    again = await client.chat.completions.create(**body)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert 0 < cached < again.usage.prompt_tokens
    stream: Any = await client.chat.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    *_, last = [chunk async for chunk in stream]
    assert last.usage.prompt_tokens_details.cached_tokens == cached
    async with served.caller() as caller, asyncio.timeout(PATIENCE_S):
        while (shown := await caller.get(f"/v1/requests/{again.id}")).status_code == 404:
            await asyncio.sleep(0.05)
    assert shown.json()["cached_tokens"] == cached


async def test_answers_do_not_depend_on_concurrent_requests(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    texts = [WORDS, "king", "quiet river crosses narrow bridge", "eagle watches wolf"]
    alone = [
        (await client.chat.completions.create(**asked("translate", text)))
        .choices[0]
        .message.content
        for text in texts
    ]
    together = await asyncio.gather(
        *(client.chat.completions.create(**asked("translate", text)) for text in texts * 5)
    )
    assert [item.choices[0].message.content for item in together] == alone * 5


async def test_same_seed_samples_the_same_answer(client: openai.AsyncOpenAI, asked: Asked) -> None:
    request = asked("diary", "a diary of the brave king", temperature=1.0)
    first, again, other = await asyncio.gather(
        *(client.chat.completions.create(**request, seed=seed) for seed in (1, 1, 2))
    )
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content


async def test_max_tokens_cuts_the_answer(client: openai.AsyncOpenAI, asked: Asked) -> None:
    completion = await client.chat.completions.create(**asked("translate", WORDS, max_tokens=2))
    assert completion.choices[0].message.content == " ".join(VELAN_WORDS.split()[:2])
    assert completion.choices[0].finish_reason == "length"


@pytest.mark.parametrize("streamed", [True, False])
async def test_answer_ends_before_its_stop_string(
    client: openai.AsyncOpenAI, asked: Asked, streamed: bool
) -> None:
    third = VELAN_WORDS.split()[2]
    request = asked("translate", WORDS, stop=[third, "never"])
    before = " ".join(VELAN_WORDS.split()[:2]) + " "
    if streamed:
        stream = await client.chat.completions.create(**request, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
        text = "".join(choice.delta.content or "" for choice in choices)
        assert (text, choices[-1].finish_reason) == (before, "stop")
    else:
        completion = await client.chat.completions.create(**request)
        assert completion.choices[0].message.content == before
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3


async def test_content_may_be_a_list_of_parts(client: openai.AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model="lmaas-demo",
        temperature=0,
        messages=[
            {"role": "developer", "content": "Translate into Velan, word by word."},
            {"role": "user", "content": [{"type": "text", "text": WORDS}]},
        ],
    )
    assert completion.choices[0].message.content == VELAN_WORDS


async def test_response_has_its_prediction_and_its_id(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    raw = await client.chat.completions.with_raw_response.create(**asked("translate", WORDS))
    assert int(raw.headers["x-lmaas-predicted-tokens"]) >= 1
    assert raw.headers["x-request-id"].startswith("req_")
    assert re.fullmatch(BATCH, raw.headers["x-lmaas-batch"])


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
async def test_headers_have_prediction_and_batch(
    served: Any, asked: Asked, endpoint: str, streamed: bool
) -> None:
    body = asked("translate", WORDS, stream=streamed)
    if endpoint == "completions":
        body["prompt"] = body.pop("messages")[-1]["content"]
    async with served.caller() as caller:
        answer = await caller.post(f"/v1/{endpoint}", json=body)
    assert answer.status_code == 200
    assert int(answer.headers["x-lmaas-predicted-tokens"]) >= 1
    assert answer.headers["x-lmaas-prediction-source"] in SOURCE_LABELS
    assert (await served.health())["predictions"] in {"model", "untrained"}
    assert re.fullmatch(BATCH, answer.headers["x-lmaas-batch"])


async def test_prompt_is_continued_without_a_template(client: openai.AsyncOpenAI) -> None:
    prompt = f"<|system|>Translate into Velan, word by word.<|user|>{WORDS}<|assistant|>"
    whole = await client.completions.create(
        model="lmaas-demo", prompt=prompt, temperature=0, max_tokens=50
    )
    assert whole.choices[0].text == VELAN_WORDS
    assert whole.choices[0].finish_reason == "stop"
    stream = await client.completions.create(
        model="lmaas-demo", prompt=prompt, temperature=0, max_tokens=50, stream=True
    )
    assert "".join([chunk.choices[0].text async for chunk in stream]) == VELAN_WORDS


async def test_several_prompts_have_a_choice_each(client: openai.AsyncOpenAI) -> None:
    completion = await client.completions.create(
        model="lmaas-demo", prompt=[[1, 5], [2, 6, 7]], max_tokens=3, temperature=0
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 5


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": [10**6]}, "invalid_value", "prompt"),
        ({"prompt": [1, "king"]}, "unsupported_parameter", "prompt"),
        ({"prompt": ["king", "king " * 3000]}, "context_length_exceeded", "prompt"),
        ({"prompt": ["king"] * 40, "n": 4}, "unsupported_parameter", "prompt"),
        ({"echo": True}, "unsupported_parameter", "echo"),
        ({"suffix": "!"}, "unsupported_parameter", "suffix"),
    ],
)
async def test_bad_prompt_is_named(
    client: openai.AsyncOpenAI, change: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(**{"model": "lmaas-demo", "prompt": "king", **change})
    assert (caught.value.code, caught.value.param) == (code, param)


async def test_models_are_listed_and_shown(client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert model.id == "lmaas-demo"
    assert (await client.models.retrieve("lmaas-demo")).id == "lmaas-demo"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("another")


@pytest.mark.parametrize(
    ("change", "kind", "code", "param"),
    [
        ({"model": "gpt-x"}, openai.NotFoundError, "model_not_found", "model"),
        ({"max_tokens": 5000}, openai.BadRequestError, "context_length_exceeded", "max_tokens"),
        ({"max_tokens": 0}, openai.BadRequestError, "invalid_value", "max_tokens"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"top_p": 1.5}, openai.BadRequestError, "invalid_value", "top_p"),
        ({"tools": [{}]}, openai.BadRequestError, "invalid_value", "tools[0].type"),
        ({"stop": ["a"] * 65}, openai.BadRequestError, "invalid_value", "stop"),
        ({"stop": ""}, openai.BadRequestError, "invalid_value", "stop"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        (
            {"messages": [{"role": "judge", "content": "x"}]},
            openai.BadRequestError,
            "invalid_value",
            "messages[0].role",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            openai.BadRequestError,
            "unsupported_parameter",
            "messages[0].content[0]",
        ),
        (
            {"stream_options": {"include_usage": True}},
            openai.BadRequestError,
            "invalid_value",
            "stream_options",
        ),
    ],
)
async def test_bad_request_is_named(
    client: openai.AsyncOpenAI,
    asked: Asked,
    change: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str,
) -> None:
    with pytest.raises(kind) as caught:
        await client.chat.completions.create(**{**asked("translate", WORDS), **change})
    assert (caught.value.code, caught.value.param) == (code, param)


async def test_over_long_prompt_is_refused(client: openai.AsyncOpenAI, asked: Asked) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked("translate", "king " * 3000))
    assert caught.value.code == "context_length_exceeded"


async def test_huge_text_is_refused_before_tokenising(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked("translate", "k" * 900_000))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{", b'{"tools": ' + b"[" * 15_000, b"", b"[]"])
async def test_invalid_body_is_a_bad_request(served: Any, body: bytes) -> None:
    async with served.caller() as caller:
        answer = await caller.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_harmless_and_null_fields_are_accepted(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    completion = await client.chat.completions.create(
        **asked("translate", WORDS, n=1, stop=None, store=False, metadata={"a": "b"}),
        top_logprobs=0,
        logit_bias={},
        extra_body={"max_tokens": None, "tool_choice": "auto", "a_field_of_next_year": None},
    )
    assert completion.choices[0].message.content == VELAN_WORDS


async def test_unknown_key_is_refused(served: Any, asked: Asked) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key="sk-lmaas-unknown", max_retries=0
    ) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.chat.completions.create(**asked("translate", WORDS))
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("streamed", [True, False])
async def test_disconnect_of_a_client_frees_its_sequence(
    served: Any, client: openai.AsyncOpenAI, asked: Asked, streamed: bool
) -> None:
    request = asked("spell", " ".join(list(VELAN)[:20]))  # about 180 tokens
    if streamed:
        stream = await client.chat.completions.create(**request, stream=True)
        await anext(aiter(stream))
        await stream.close()
    else:
        with pytest.raises((httpx.ReadTimeout, openai.APITimeoutError)):
            await client.chat.completions.create(**request, timeout=0.05)
    await served.idle()
