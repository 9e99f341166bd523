"""LiteLLM's SDK, with the gateway as an OpenAI-compatible provider."""

import json

import litellm
from pydantic import BaseModel, Field
from report import KEY, MODEL, PERSON, QUESTION, TOOL, URL, WEATHER, feature, run

COMMON = {"model": f"hosted_vllm/{MODEL}", "api_base": URL, "api_key": KEY, "max_tokens": 200}


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@feature("chat")
def chat() -> None:
    assert litellm.completion(messages=asked(QUESTION), **COMMON).choices[0].message.content


@feature("stream")
def stream() -> None:
    events = litellm.completion(messages=asked(QUESTION), stream=True, **COMMON)
    assert "".join(event.choices[0].delta.content or "" for event in events)


@feature("several answers")
def several() -> None:
    assert len(litellm.completion(messages=asked(QUESTION), n=2, **COMMON).choices) == 2


@feature("JSON schema")
def schema() -> None:
    answer = litellm.completion(messages=asked(PERSON), response_format=Person, **COMMON)
    assert Person.model_validate_json(answer.choices[0].message.content)


@feature("tool call")
def tool_call() -> None:
    answer = litellm.completion(
        messages=asked(WEATHER), tools=[TOOL], tool_choice="required", **COMMON
    )
    arguments = answer.choices[0].message.tool_calls[0].function.arguments
    assert json.loads(arguments)["city"] in ("Oslo", "Rome")


@feature("streamed tool call")
def streamed() -> None:
    events = list(
        litellm.completion(
            messages=asked(WEATHER), tools=[TOOL], tool_choice="required", stream=True, **COMMON
        )
    )
    whole = litellm.stream_chunk_builder(events)
    arguments = whole.choices[0].message.tool_calls[0].function.arguments
    assert json.loads(arguments)["city"] in ("Oslo", "Rome")


run()
