"""instructor: typed answers by JSON schema and by tools."""

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field
from report import KEY, MODEL, PERSON, URL, feature, run


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


def person(mode: instructor.Mode) -> Person:
    client = instructor.from_openai(OpenAI(base_url=URL, api_key=KEY), mode=mode)
    return client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PERSON}],
        response_model=Person,
        max_retries=1,
        max_tokens=200,
        temperature=0,
    )


@feature("JSON schema")
def schema() -> None:
    assert isinstance(person(instructor.Mode.JSON_SCHEMA), Person)


@feature("tool call")
def tool_call() -> None:
    assert isinstance(person(instructor.Mode.TOOLS), Person)


run()
