"""pydantic-ai: an agent with a typed result, and one with a tool."""

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from report import KEY, MODEL, PERSON, QUESTION, URL, WEATHER, feature, run

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
SETTINGS = {"temperature": 0.0, "max_tokens": 200}


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


class Weather(BaseModel):
    """The weather in a city."""

    city: str


@feature("chat")
def chat() -> None:
    assert Agent(model).run_sync(QUESTION, model_settings=SETTINGS).output


@feature("stream")
async def stream() -> None:
    async with Agent(model).run_stream(QUESTION, model_settings=SETTINGS) as answer:
        assert [part async for part in answer.stream_text(delta=True)]


@feature("JSON schema")
def schema() -> None:
    agent = Agent(model, output_type=NativeOutput(Person))
    assert isinstance(agent.run_sync(PERSON, model_settings=SETTINGS).output, Person)


@feature("tool call")
def tool_call() -> None:
    agent = Agent(model, output_type=Weather)  # by a tool that the model must call
    assert isinstance(agent.run_sync(WEATHER, model_settings=SETTINGS).output, Weather)


@feature("streamed tool call")
async def streamed() -> None:
    agent = Agent(model, output_type=Weather)
    async with agent.run_stream(WEATHER, model_settings=SETTINGS) as answer:
        assert isinstance(await answer.get_output(), Weather)


run()
