"""OpenAI's client for Python, as its documentation uses it."""

import json
import time

from openai import OpenAI
from pydantic import BaseModel, Field
from report import KEY, MODEL, PERSON, QUESTION, TOOL, URL, WEATHER, feature, run

client = OpenAI(base_url=URL, api_key=KEY)
ASKED = [{"role": "user", "content": QUESTION}]
# One call: so small a model finds no end of several.
REQUIRED = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}


class Person(BaseModel, extra="forbid"):
    """What is asked for."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


@feature("chat")
def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=40)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 40


@feature("stream")
def stream() -> None:
    events = client.chat.completions.create(
        model=MODEL,
        messages=ASKED,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, usage = [], None
    for event in events:
        texts += [choice.delta.content or "" for choice in event.choices]
        usage = event.usage or usage
    assert "".join(texts)
    assert usage.completion_tokens


@feature("several answers")
def several() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=8, n=4)
    assert len(answer.choices) == 4


@feature("log probabilities")
def logprobs() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=8, logprobs=True, top_logprobs=3
    )
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 3


@feature("JSON schema")
def schema() -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": PERSON}],
        response_format=Person,
        max_tokens=200,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@feature("tool call")
def tool_call() -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": WEATHER}],
        tools=[TOOL],
        **REQUIRED,
    )
    (call,) = answer.choices[0].message.tool_calls[:1]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    assert answer.choices[0].finish_reason == "tool_calls"


@feature("tool loop")
def tool_loop() -> None:
    messages = [{"role": "user", "content": WEATHER}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], **REQUIRED)
    message = first.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "rain"}'}
        for call in message.tool_calls
    ]
    last = client.chat.completions.create(
        model=MODEL, messages=messages, tools=[TOOL], tool_choice="none", max_tokens=60
    )
    assert last.choices[0].message.content


@feature("streamed tool call")
def streamed_tool_call() -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": WEATHER}],
        tools=[TOOL | {"function": TOOL["function"] | {"strict": True}}],
        **REQUIRED,
    ) as events:
        for _ in events:
            pass
        message = events.get_final_completion().choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Oslo", "Rome")


@feature("batch job")
def batch() -> None:
    body = {"model": MODEL, "messages": ASKED, "max_tokens": 8}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
    job = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while job.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.5)
        job = client.batches.retrieve(job.id)
    assert job.status == "completed", job
    assert "chat.completion" in client.files.content(job.output_file_id).text


run()
