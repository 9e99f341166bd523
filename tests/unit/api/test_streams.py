"""Streams whose client does not read, or disconnects."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
from litestar import Litestar, Request, Response, get
from litestar.response import Stream

from gateway.api.openai.answers import respond
from gateway.api.openai.chat import FORM as CHAT_FORM
from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.completion_schema import Completion, CompletionRequest
from gateway.api.openai.completions import FORM
from gateway.api.openai.conversation.messages import ChatMessage
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.generation.request_state import SchedulingTrace
from gateway.generation.text.growing_answer import Piece
from tests.conftest import PATIENCE_S


class EndlessAnswer:
    """The part of a request's state that a stream reads; its text grows without end."""

    id = UUID(int=1)
    choice = 0
    done = ended = False
    error = None
    calls = None
    hold = None
    limited_by = None
    memory: Any = "device"
    host_reason = None
    on_host = undecided = False
    trace = SchedulingTrace()
    expected_band_s = None
    tokens = (1,)
    arrived_at = datetime.now(UTC)
    prediction = SimpleNamespace(median=3.0, label="app")
    request = SimpleNamespace(logprobs=None, kept=None, service_tier="default", memory="device")

    def read_parts(self, *, ended: bool) -> list[Piece]:
        assert not ended
        return [Piece("word ")]

    async def wait_for_growth(self) -> None:
        await asyncio.sleep(0)


class FakeService:
    model = "m"
    fingerprint = "fp"

    def __init__(self) -> None:
        self.cancelled: list[Any] = []

    def comment(self, state: Any) -> str | None:
        return getattr(state, "place", None)

    def cancel(self, state: Any) -> None:
        self.cancelled.append(state)


@pytest.mark.parametrize("leaves", ["while we write to it", "before"])
async def test_disconnected_client_frees_its_sequence(leaves: str) -> None:
    service, answer = FakeService(), EndlessAnswer()
    data = CompletionRequest(model="m", prompt="king", stream=True)

    @get("/")
    async def stream(request: Request[Any, Any, Any]) -> Response[Completion] | Stream:
        return await respond(FORM, [answer], service, data, request, ClientTimeouts())  # type: ignore[list-item, arg-type]

    blocked = asyncio.Event()
    if leaves == "before":
        blocked.set()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            blocked.set()
            await asyncio.Event().wait()  # a client that reads nothing

    async def receive() -> Any:
        if not blocked.is_set():
            await blocked.wait()
        return {"type": "http.disconnect"}

    scope: Any = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "server": ("test", 80),
        "client": ("test", 1),
        "scheme": "http",
        "root_path": "",
    }
    async with asyncio.timeout(PATIENCE_S):
        await Litestar([stream])(scope, receive, send)
    assert service.cancelled == [answer]


class HeldAnswer(EndlessAnswer):
    """A choice of an answer that has no token until `grew` is set."""

    def __init__(self, choice: int, grew: asyncio.Event) -> None:
        self.choice = choice
        self._grew = grew

    async def wait_for_growth(self) -> None:
        await self._grew.wait()


async def test_a_queued_stream_says_its_place_until_it_starts() -> None:
    grew, words = asyncio.Event(), "waiting, place 3"
    answer: Any = HeldAnswer(0, grew)
    answer.place = words
    data = ChatCompletionRequest(model="m", messages=[ChatMessage("user", "king")], stream=True)
    timeouts, request = ClientTimeouts(read_timeout_s=0.15), SimpleNamespace(state={})
    stream: Any = await respond(CHAT_FORM, [answer], FakeService(), data, request, timeouts)  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_S):
        assert await anext(stream.iterator) == f": {words}\n\n".encode()
        answer.place = None
        assert await anext(stream.iterator) == b": waiting\n\n"
        await stream.iterator.aclose()


async def test_a_stream_says_where_its_choices_run_once_all_have_started() -> None:
    grew = asyncio.Event()
    answers: Any = [HeldAnswer(choice, grew) for choice in range(2)]
    for each in answers:
        each.undecided = True
        each.request = SimpleNamespace(**vars(each.request) | {"memory": "host-exact"})
    data = ChatCompletionRequest(model="m", messages=[ChatMessage("user", "king")], stream=True)
    timeouts, request = ClientTimeouts(), SimpleNamespace(state={})
    stream: Any = await respond(CHAT_FORM, answers, FakeService(), data, request, timeouts)  # type: ignore[arg-type]
    assert stream.headers["x-lmaas-kv"] == "undecided"
    answers[0].undecided = False
    grew.set()
    async with asyncio.timeout(PATIENCE_S):
        assert (await anext(stream.iterator)).startswith(b"data: ")
        answers[1].undecided = False
        answers[1].on_host, answers[1].memory = True, "host-exact"
        answers[1].host_reason = "would_preempt"
        comment = b": x-lmaas-kv: host-exact, x-lmaas-kv-reason: would_preempt\n\n"
        assert await anext(stream.iterator) == comment
        assert (await anext(stream.iterator)).startswith(b"data: ")
        assert (await anext(stream.iterator)).startswith(b"data: ")
        await stream.iterator.aclose()


async def test_role_leaves_with_the_first_token_and_comments_before() -> None:
    grew = asyncio.Event()
    answers: Any = [HeldAnswer(choice, grew) for choice in range(2)]
    data = ChatCompletionRequest(model="m", messages=[ChatMessage("user", "king")], stream=True)
    timeouts, service, request = (
        ClientTimeouts(read_timeout_s=0.15),
        FakeService(),
        SimpleNamespace(state={}),
    )
    stream: Any = await respond(CHAT_FORM, answers, service, data, request, timeouts)  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_S):
        assert [await anext(stream.iterator) for _ in range(2)] == [b": waiting\n\n"] * 2
        grew.set()
        events: list[Any] = []
        while len(events) < 4:
            if (line := await anext(stream.iterator)).startswith(b"data: "):
                events.append(msgspec.json.decode(line.removeprefix(b"data: ")))
        await stream.iterator.aclose()
    choices = [event["choices"][0] for event in events]
    assert [(each["index"], each["delta"].get("role")) for each in choices] == [
        (0, "assistant"),
        (0, None),
        (1, "assistant"),
        (1, None),
    ]
