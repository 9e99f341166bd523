"""What is checked of a gateway in front of a real server, through OpenAI's client."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import httpx
import openai

from benchmarks.harness.upstream_servers import Server
from tests.upstream.front import ADMIN_KEY

CLIENTS: Final = 24
QUEUED: Final = 4  # more than what runs: the engine's own queue is a step deep
PATIENCE_S: Final = 3_600.0  # the machine may do other work
SCHEMA: Final = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL: Final = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Setting:
    """A gateway in front of a server that runs `slots` sequences at once."""

    def __init__(
        self, server: Server, url: str, client: openai.AsyncOpenAI, slots: int, running: str
    ) -> None:
        self.server = server
        self.url = url
        self.client = client
        self.slots = slots
        self.running = running  # the server's series of what it runs
        self.waiting = running.replace("running", "waiting").replace("processing", "deferred")

    async def ask(self, text: str = "What is the sea?", **fields: Any) -> Any:
        given = {"max_tokens": 24, "temperature": 0, **fields}
        messages = [{"role": "user", "content": text}]
        create: Any = self.client.chat.completions.create
        return await create(model="smollm2", messages=messages, **given)

    async def text(self, text: str = "What is the sea?", **fields: Any) -> str:
        answer = await self.ask(text, **fields)
        return str(answer.choices[0].message.content)


At = TypeVar("At", bound=Setting)
Check: TypeAlias = Callable[[At], Awaitable[str]]


async def same_text(at: Setting) -> str:
    """Greedy answers equal the server's own, streamed or not."""
    url = f"{at.server.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=PATIENCE_S) as direct:
        own = await Setting(at.server, "", direct, 0, "").text()
    whole = await at.text()
    stream = await at.ask(stream=True)
    pieces = [each.choices[0].delta.content or "" async for each in stream if each.choices]
    assert whole == own == "".join(pieces), (own, whole, pieces)
    return f"{len(pieces)} pieces"


async def choices(at: Setting) -> str:
    """Several answers of one request differ."""
    answer = await at.ask(n=4, temperature=1.0, seed=5)
    texts = {choice.message.content for choice in answer.choices}
    assert len(texts) > 1
    return f"{len(texts)} different texts of 4"


async def seeds(at: Setting) -> str:
    """A seed gives the same answer again, another one another answer."""
    first, again, other = [await at.text(temperature=1.0, seed=seed) for seed in (7, 7, 8)]
    assert first == again != other, (first, again, other)
    return ""


async def stops(at: Setting) -> str:
    """A stop string ends the answer before it."""
    whole = await at.text()
    word = whole.split()[6]
    answer = await at.ask(stop=word)
    text = answer.choices[0].message.content
    assert text == whole[: whole.index(word)], (whole, text)
    assert answer.choices[0].finish_reason == "stop"
    return ""


async def logprobs(at: Setting) -> str:
    """Log probabilities of the answer's tokens, with the likeliest ones."""
    answer = await at.ask(logprobs=True, top_logprobs=2, max_tokens=8)
    scored = answer.choices[0].logprobs.content
    assert "".join(each.token for each in scored) == answer.choices[0].message.content
    assert all(each.top_logprobs[0].logprob >= each.logprob for each in scored)
    assert len(scored) == answer.usage.completion_tokens
    return f"{len(scored)} tokens"


async def structured(at: Setting) -> str:
    """An answer by a JSON schema."""
    form = {"name": "person", "schema": SCHEMA, "strict": True}
    response_format = {"type": "json_schema", "json_schema": form}
    text = await at.text("A person as JSON.", max_tokens=100, response_format=response_format)
    assert set(json.loads(text)) == {"name", "age"}, text
    return ""


async def tools(at: Setting) -> str:
    """A call of a tool that has to come."""
    answer = await at.ask(
        "The weather in Oslo?", max_tokens=100, tools=[TOOL], tool_choice="required"
    )
    call = answer.choices[0].message.tool_calls[0]
    assert set(json.loads(call.function.arguments)) == {"city"}, call
    return ""


async def cancel(at: Setting) -> str:
    """A client that leaves frees the server."""
    stream = await at.ask(stream=True, max_tokens=900, extra_body={"ignore_eos": True})
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(at.server.metric, at.running):
            await asyncio.sleep(0.1)
    return ""


async def queue_depth(at: Setting) -> str:
    """The server's own queue stays short under load."""
    asked = [
        asyncio.create_task(at.ask(f"Story {n}.", max_tokens=40, extra_body={"ignore_eos": True}))
        for n in range(2 * CLIENTS)
    ]
    depths = []
    while not all(task.done() for task in asked):
        depths.append(await asyncio.to_thread(at.server.metric, at.waiting))
        await asyncio.sleep(0.1)
    await asyncio.gather(*asked)
    assert max(depths) <= QUEUED, depths
    return f"at most {max(depths):.0f} of {2 * CLIENTS} waited in it"


async def killed(at: Setting) -> str:
    """kill -9 of the server under load: after its restart every stream goes on."""
    begun: set[int] = set()

    async def stream(number: int) -> tuple[str, str]:
        text, reason = "", ""
        options = {"stream": True, "max_tokens": 60, "extra_body": {"ignore_eos": True}}
        async for chunk in await at.ask(f"Story {number}.", **options):
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
            begun.add(number)
        return text, reason

    streams = [asyncio.create_task(stream(number)) for number in range(CLIENTS)]
    while len(begun) < at.slots // 2 and not any(stream.done() for stream in streams):
        await asyncio.sleep(0.02)
    count = len(begun)
    at.server.kill()
    at.server.start()
    ended = await asyncio.gather(*streams)
    assert all(text and reason == "length" for text, reason in ended), ended
    return f"{CLIENTS} of {CLIENTS} ended in full, {count} had begun"


async def shown(at: Setting) -> str:
    """What the server showed when it was probed."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as client:
        info = (await client.get(f"{at.url}/admin/engine")).json()["info"]
    return f"{info['dtype']}, context {info['context_tokens']}"


CHECKS: Final[Mapping[str, Check[Setting]]] = {
    "probed": shown,
    "chat, streamed or not, has the server's own text": same_text,
    "several answers": choices,
    "seeds": seeds,
    "stop strings": stops,
    "log probabilities": logprobs,
    "JSON schema": structured,
    "call of a tool that has to come": tools,
    "a client that leaves stops the generation": cancel,
    "the server's own queue stays short": queue_depth,
    "kill -9 under load and restart": killed,
}


async def outcome(check: Check[At], at: At) -> tuple[bool, str]:
    """Whether a check passed or was refused by name, and what to write of it."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return True, f"yes. {await check(at)}".strip(" .")
    except openai.BadRequestError as error:
        return error.code == "unsupported_parameter", f"refused: `{error.param}`"
    except Exception as error:  # noqa: BLE001 - a failed check is a result
        return False, f"**no**: {type(error).__name__} {str(error)[:200]}"
