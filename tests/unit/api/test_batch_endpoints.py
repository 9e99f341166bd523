"""Lines of batches as the endpoints read them."""

from uuid import UUID

import msgspec
import pytest

from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.errors import (
    InvalidRequest,
    LmaasError,
    ModelNotFound,
    OverLimit,
    UnsupportedParameter,
)
from gateway.tenancy.caller import Caller

CALLER = Caller(
    tenant_id=UUID(int=1),
    tenant="t",
    app_id=UUID(int=2),
    app="a",
    api_key_id=UUID(int=3),
    instruction="Be brief.",
)
CHAT = ENDPOINTS["/v1/chat/completions"]
TEXT = ENDPOINTS["/v1/completions"]


def a_chat(**given: object) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return msgspec.json.encode({"model": "m", "messages": messages, **given})


def test_body_is_read_as_the_route_reads_it() -> None:
    request = CHAT.read(a_chat(max_tokens=7, temperature=0, store=True), CALLER, "m")
    assert request.max_tokens == 7
    assert request.sampling.temperature == 0
    assert request.user_input == "hello"
    assert request.instruction == "Be brief."


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        (a_chat(stream=True), UnsupportedParameter, "stream"),
        (a_chat(model="other"), ModelNotFound, "model"),
        (a_chat(tools=[{"type": "function"}]), InvalidRequest, "tools[0].function"),
        (a_chat(temperature="hot"), InvalidRequest, "temperature"),
        (b'{"model": "m"}', InvalidRequest, "messages"),
        (b"[]", InvalidRequest, None),
        (b"not json", InvalidRequest, None),
    ],
)
def test_body_that_the_route_refuses_is_refused(
    body: bytes, error: type[LmaasError], param: str | None
) -> None:
    with pytest.raises(error) as raised:
        CHAT.read(body, CALLER, "m")
    assert raised.value.param == param


def test_line_of_text_completions_has_one_prompt() -> None:
    body = msgspec.json.encode({"model": "m", "prompt": ["a"], "n": 2})
    assert TEXT.read(body, CALLER, "m").choices == 2
    with pytest.raises(UnsupportedParameter):
        TEXT.read(msgspec.json.encode({"model": "m", "prompt": ["a", "b"]}), CALLER, "m")


def test_error_has_the_status_and_the_body_of_the_route() -> None:
    status, body = CHAT.error(OverLimit("too much"))
    assert status == 429
    assert msgspec.json.decode(body)["error"]["message"] == "too much"
