"""The official client calls tools: whole, streamed, in a loop, and as lines of a batch job.

The demo model cannot choose calls, but calls that are required are valid whatever it knows.
"""

import asyncio
import json
from typing import Any, Literal

import httpx
import openai
import pytest
from jsonschema_rs import validator_for
from pydantic import BaseModel

from tests.conftest import PATIENCE_S

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS = {"weather": WEATHER, "now": NOTHING}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "description": f"the {name}", "parameters": schema},
    }
    for name, schema in SCHEMAS.items()
]
FUNCTIONS: Any = [tool["function"] for tool in TOOLS]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def a_request(**more: Any) -> dict[str, Any]:
    return {
        "model": "lmaas-demo",
        "messages": [{"role": "user", "content": "brave queen"}],
        "max_tokens": 600,
        "seed": 1,
        "tools": TOOLS,
        **more,
    }


def check(name: str, arguments: str) -> None:
    assert validator_for(SCHEMAS[name]).is_valid(json.loads(arguments)), arguments


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
async def test_required_call_is_valid(client: openai.AsyncOpenAI, choice: Any) -> None:
    answer = await client.chat.completions.create(
        **a_request(tool_choice=choice, n=2, logprobs=True, parallel_tool_calls=False)
    )
    ids = set()
    for each in answer.choices:
        assert (each.finish_reason, each.message.content) == ("tool_calls", None)
        (call,) = each.message.tool_calls or ()
        assert call.type == "function"
        assert choice == "required" or call.function.name == "weather"
        check(call.function.name, call.function.arguments)
        ids.add(call.id)
        assert each.logprobs is not None
    assert len(ids) == 2
    assert all(each.startswith("call_") for each in ids)
    assert answer.usage is not None
    scored = sum(len(each.logprobs.content or ()) for each in answer.choices if each.logprobs)
    assert scored == answer.usage.completion_tokens


async def test_stream_has_the_name_first_and_then_the_same_call(
    client: openai.AsyncOpenAI,
) -> None:
    wanted = a_request(tool_choice=NAMED, temperature=0)
    whole = await client.chat.completions.create(**wanted)
    (call,) = whole.choices[0].message.tool_calls or ()
    assert call.type == "function"
    parts, reasons = list[Any](), list[str | None]()
    async for chunk in await client.chat.completions.create(**wanted, stream=True):
        assert chunk.choices[0].delta.content is None
        parts += chunk.choices[0].delta.tool_calls or []
        reasons.append(chunk.choices[0].finish_reason)
    assert reasons[-1] == "tool_calls"
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    first, *others = parts
    assert first.function is not None
    assert (first.function.name, first.type, first.index) == ("weather", "function", 0)
    assert (first.id or "").startswith("call_")
    assert {(part.index, part.id) for part in others} <= {(0, None)}
    pieces = [part.function.arguments or "" for part in parts if part.function]
    assert "".join(pieces) == call.function.arguments
    check("weather", "".join(pieces))


async def test_loop_of_calls_and_results_goes_on(client: openai.AsyncOpenAI) -> None:
    wanted = a_request(tool_choice=NAMED)
    asked = (await client.chat.completions.create(**wanted)).choices[0].message
    (call,) = asked.tool_calls or ()
    result = {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"}
    messages = [*wanted["messages"], asked, result]
    answer = await client.chat.completions.create(
        **{**wanted, "messages": messages, "tool_choice": "none", "max_tokens": 8}
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content is not None


async def test_functions_of_old_are_called_in_their_own_form(client: openai.AsyncOpenAI) -> None:
    wanted = {
        **a_request(functions=FUNCTIONS, function_call={"name": "weather"}, temperature=0),
        "tools": openai.omit,
    }
    choice = (await client.chat.completions.create(**wanted)).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("function_call", None)
    called = choice.message.function_call
    assert called is not None
    check(called.name, called.arguments)
    name, arguments = "", ""
    async for chunk in await client.chat.completions.create(**wanted, stream=True):
        if part := chunk.choices[0].delta.function_call:
            name += part.name or ""
            arguments += part.arguments or ""
    assert (name, arguments) == (called.name, called.arguments)
    result = {"role": "function", "name": "weather", "content": "warm"}
    wanted["messages"] = [*wanted["messages"], choice.message, result]
    answer = await client.chat.completions.create(
        **{**wanted, "function_call": "none", "max_tokens": 4}
    )
    assert answer.choices[0].message.content is not None


async def test_call_that_is_cut_off_ends_by_its_length(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**a_request(tool_choice=NAMED, max_tokens=5))
    assert answer.choices[0].finish_reason == "length"


async def test_answer_without_a_call_is_content(client: openai.AsyncOpenAI) -> None:
    wanted = a_request(max_tokens=12, temperature=0, extra_body={"min_tokens": 8})
    answer = await client.chat.completions.create(**wanted)
    assert answer.choices[0].message.tool_calls is None
    content = answer.choices[0].message.content
    assert content
    stream = await client.chat.completions.create(**wanted, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == content


async def test_line_of_a_batch_calls_as_the_route_does(client: openai.AsyncOpenAI) -> None:
    body = a_request(tool_choice="required", parallel_tool_calls=False)
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    content = json.dumps(line).encode()
    file = await client.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    async with asyncio.timeout(PATIENCE_S):
        while batch.status not in {"completed", "failed", "expired", "cancelled"}:
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
    assert batch.output_file_id is not None
    answered = json.loads((await client.files.content(batch.output_file_id)).text)
    (choice,) = answered["response"]["body"]["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    check(call["function"]["name"], call["function"]["arguments"])


class Weather(BaseModel):
    city: Literal["Paris", "Oslo"]
    night: bool


async def test_parse_helper_gets_arguments_of_its_model(client: openai.AsyncOpenAI) -> None:
    wanted = a_request(tool_choice="required", parallel_tool_calls=False)
    wanted["tools"] = [openai.pydantic_function_tool(Weather)]
    answer = await client.chat.completions.parse(**wanted)
    (call,) = answer.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Weather)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"tool_choice": "any"}, "invalid_value", "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "unsupported_parameter", "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "no name"}}]},
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            {"response_format": None, "extra_body": {"guided_regex": "a"}},
            "invalid_value",
            "guided_regex",
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "f"}}],
                    },
                },
                "tools": [
                    {"type": "function", "function": {"name": "now"}},
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "circle"}},
                    },
                ],
            },
            "invalid_value",
            "tools[1].function.parameters",
        ),
    ],
)
async def test_bad_tools_are_named(
    client: openai.AsyncOpenAI, change: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**a_request(**change))
    assert (caught.value.code, caught.value.param) == (code, param)


async def test_length_of_an_answer_with_tools_is_predicted(served: Any) -> None:
    async with served.caller() as caller:
        answer: httpx.Response = await caller.post("/v1/length-predictions", json=a_request())
    assert answer.status_code == 200
