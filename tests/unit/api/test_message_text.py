"""Text goes unchanged from the client's message to the model, and back into a stream."""

from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.streams import IdleComments, event_stream
from gateway.tenancy.authentication import Caller
from tests.conftest import PATIENCE_S

ID = UUID(int=1)
CALLER = Caller(tenant_id=ID, tenant="acme", app_id=ID, app="mail", api_key_id=ID, instruction=None)


@pytest.mark.parametrize("texts", [["brave queen finds ", "castle"], ["\n", "", "a"], []])
def test_text_parts_are_concatenated(texts: list[str]) -> None:
    parts = [{"type": "text", "text": text} for text in texts]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    request = msgspec.convert(body, ChatCompletionRequest).to_request(CALLER)
    assert [message.content for message in request.messages] == ["".join(texts)]


async def test_event_is_one_line_for_every_client() -> None:
    text = "".join(map(chr, range(0x3000))) + "\U0001f600"

    async def events() -> AsyncGenerator[object, None]:
        yield {"content": text}

    stream: Any = event_stream(events(), {}, IdleComments(lambda: None, PATIENCE_S))
    received = [event async for event in stream.iterator]
    lines = b"".join(received).decode().splitlines()
    assert [line[:6] for line in lines] == ["data: ", "", "data: ", ""]
    assert msgspec.json.decode(lines[0].removeprefix("data: ")) == {"content": text}
