"""langchain-openai: `ChatOpenAI` with tools and structured output."""

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from report import KEY, MODEL, PERSON, QUESTION, URL, WEATHER, feature, run

model = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_tokens=200, temperature=0)


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@feature("chat")
def chat() -> None:
    assert model.invoke(QUESTION).content


@feature("stream")
def stream() -> None:
    assert "".join(chunk.content for chunk in model.stream(QUESTION))


@feature("several answers")
def several() -> None:
    found = model.model_copy(update={"n": 2}).generate([[HumanMessage(QUESTION)]])
    assert len(found.generations[0]) == 2


@feature("log probabilities")
def logprobs() -> None:
    assert model.bind(logprobs=True).invoke(QUESTION).response_metadata["logprobs"]["content"]


@feature("JSON schema")
def schema() -> None:
    assert isinstance(model.with_structured_output(Person).invoke(PERSON), Person)


@feature("tool call")
def tool_call() -> None:
    answer = model.bind_tools([weather], tool_choice="required").invoke(WEATHER)
    assert answer.tool_calls[0]["name"] == "weather"


@feature("tool loop")
def tool_loop() -> None:
    asked = HumanMessage(WEATHER)
    first = model.bind_tools([weather], tool_choice="required").invoke([asked])
    results = [
        ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        for call in first.tool_calls
    ]
    last = model.bind_tools([weather], tool_choice="none").invoke([asked, first, *results])
    assert isinstance(last, AIMessage)
    assert last.content


@feature("streamed tool call")
def streamed() -> None:
    bound = model.bind_tools([weather], tool_choice="required")
    whole = None
    for chunk in bound.stream(WEATHER):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"]["city"]


run()
