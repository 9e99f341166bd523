"""Answers of a given form, called by the official client."""

import json
import re
from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from jsonschema_rs import validator_for
from pydantic import BaseModel, Field

from tests.e2e.conftest import Served

Asked = Callable[..., dict[str, Any]]
DIARY = "a diary of the brave king"
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 30},
        "mood": {"enum": ["brave", "golden", None]},
        "pages": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
    },
    "required": ["title", "mood", "pages"],
    "additionalProperties": False,
}


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "page", "strict": True, "schema": schema},
    }


class Page(BaseModel):
    """What `parse` makes of an answer."""

    title: str = Field(max_length=30)
    mood: Literal["brave", "golden"] | None
    words: list[str] = Field(max_length=2)


async def test_every_answer_that_ends_by_itself_is_valid(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    answered = await client.chat.completions.create(
        **asked("diary", DIARY, temperature=1.0, n=8, seed=3, response_format=schema_format(SCHEMA))
    )
    validator = validator_for(SCHEMA)
    ended = [choice for choice in answered.choices if choice.finish_reason == "stop"]
    assert ended
    for choice in ended:
        assert validator.is_valid(json.loads(choice.message.content or "")), choice


async def test_the_clients_parse_helper_gets_its_model(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    parsed = await client.chat.completions.parse(
        **asked("diary", DIARY, temperature=0), response_format=Page
    )
    assert isinstance(parsed.choices[0].message.parsed, Page)


async def test_a_stream_has_the_same_text(client: openai.AsyncOpenAI, asked: Asked) -> None:
    request = asked("diary", DIARY, temperature=0, response_format=schema_format(SCHEMA))
    whole = await client.chat.completions.create(**request)
    stream = await client.chat.completions.create(**request, stream=True)
    parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(parts) == whole.choices[0].message.content


async def test_any_object_is_an_answer_to_json_object(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    answered = await client.chat.completions.create(
        **asked(
            "diary",
            DIARY,
            temperature=1.0,
            n=8,
            max_tokens=60,
            response_format={"type": "json_object"},
        )
    )
    for choice in answered.choices:
        content = choice.message.content or ""
        assert content.startswith("{")
        assert choice.finish_reason == "length" or isinstance(json.loads(content), dict)


VLLM_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"guided_choice": ["brave queen", 'a "\n', "é"]}, r'brave queen|a "\n|é'),
    ({"structured_outputs": {"choice": ["yes"]}}, "yes"),
    ({"guided_regex": "[0-9]{2}-[a-f]"}, "[0-9]{2}-[a-f]"),
    ({"structured_outputs": {"regex": "(ab){2}"}}, "abab"),
    ({"guided_grammar": 'start: "x" start? "y"'}, "x+y+"),
    ({"structured_outputs": {"grammar": 'root ::= "left" | "right"'}}, "left|right"),
    ({"guided_json": {"const": {"a": 1}}}, r'\{\s*"a"\s*:\s*1\s*\}'),
    ({"guided_json": '{"enum": [12]}', "guided_decoding_backend": "xgrammar"}, "12"),
    (
        {"guided_json": {"const": [1, 2]}, "guided_whitespace_pattern": "_"},
        r"\[_?1_?,_?2_?\]",
    ),
    (
        {"structured_outputs": {"json": {"const": [1, 2]}, "disable_any_whitespace": True}},
        r"\[1,2\]",
    ),
]


@pytest.mark.parametrize(("fields", "pattern"), VLLM_FIELDS)
async def test_vllms_fields_give_answers_their_form(
    client: openai.AsyncOpenAI, asked: Asked, fields: dict[str, Any], pattern: str
) -> None:
    request = asked("diary", DIARY, temperature=1.0, max_tokens=40)
    chat = await client.chat.completions.create(**request, extra_body=fields)
    text = await client.completions.create(
        model=request["model"], prompt="words:", max_tokens=40, extra_body=fields
    )
    for finish, content in (
        (chat.choices[0].finish_reason, chat.choices[0].message.content),
        (text.choices[0].finish_reason, text.choices[0].text),
    ):
        if finish == "stop":
            assert re.fullmatch(pattern, content or ""), content


SCHEMA_PARAM = "response_format.json_schema.schema"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (schema_format({"type": "object", "not": {}}), SCHEMA_PARAM, "not"),
    (schema_format({"$ref": "https://example.com/a"}), SCHEMA_PARAM, "example"),
    ({"type": "json_schema"}, "response_format.json_schema", "is required"),
    ({"type": "xml"}, "response_format.type", "json_schema"),
]


@pytest.mark.parametrize(("wanted", "param", "reason"), REFUSED)
async def test_what_cannot_be_enforced_is_refused_with_the_reason(
    client: openai.AsyncOpenAI, asked: Asked, wanted: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=reason) as caught:
        await client.chat.completions.create(**asked("diary", DIARY, response_format=wanted))
    assert caught.value.param == param


CHAIN = 2_000
X = '"x"'
HOSTILE: dict[str, dict[str, Any]] = {
    "stack": schema_format(
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(CHAIN)},
                f"d{CHAIN}": {},
            },
        }
    ),
    "time": {
        "structured_outputs": {
            "grammar": f"start: {'a ' * 20}\na: {X}? {'b ' * 16}\nb: {X}* {X}* {X}* {X}*"
        }
    },
    "size": {"guided_choice": ["x" * 200_000]},
    "repetition": {"guided_regex": "((((a{1,100}){1,100}){1,100}){1,100})"},
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_grammar_is_refused_and_harms_no_other(
    served: Served, client: openai.AsyncOpenAI, asked: Asked, kind: str
) -> None:
    engine = served.engine().pid
    fields = HOSTILE[kind]
    body = {"response_format": fields} if "type" in fields else fields
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(**asked("diary", DIARY), extra_body=body)
    answer = await client.chat.completions.create(
        **asked("diary", DIARY), extra_body={"guided_choice": ["fine"]}
    )
    assert answer.choices[0].message.content == "fine"
    assert served.engine().pid == engine
