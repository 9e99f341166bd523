"""llama-index: `OpenAILike`, its structured predictions and its tool calls."""

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field
from report import KEY, MODEL, PERSON, QUESTION, URL, WEATHER, feature, run

model = OpenAILike(
    model=MODEL,
    api_base=URL,
    api_key=KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=8192,
    max_tokens=200,
    temperature=0,
)


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


TOOL = FunctionTool.from_defaults(weather)


@feature("chat")
def chat() -> None:
    assert model.chat([ChatMessage(role="user", content=QUESTION)]).message.content


@feature("stream")
def stream() -> None:
    parts = model.stream_chat([ChatMessage(role="user", content=QUESTION)])
    assert "".join(part.delta or "" for part in parts)


@feature("JSON schema")
def schema() -> None:
    found = model.structured_predict(Person, PromptTemplate("{text}"), text=PERSON)
    assert isinstance(found, Person)


@feature("tool call")
def tool_call() -> None:
    answer = model.chat_with_tools([TOOL], user_msg=WEATHER, tool_required=True)
    calls = model.get_tool_calls_from_response(answer)
    assert calls[0].tool_name == "weather"


@feature("tool loop")
def tool_loop() -> None:
    found = model.predict_and_call([TOOL], user_msg=WEATHER, tool_required=True)
    assert "rain" in str(found)


@feature("streamed tool call")
def streamed() -> None:
    parts = list(model.stream_chat_with_tools([TOOL], user_msg=WEATHER, tool_required=True))
    assert model.get_tool_calls_from_response(parts[-1])[0].tool_name == "weather"


run()
