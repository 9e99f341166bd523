"""Service tiers as clients ask for them and are told them."""

from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.completion_schema import CompletionRequest
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest
from gateway.tenancy.caller import Caller

CALLER = Caller(
    tenant_id=UUID(int=1),
    tenant="tenant",
    app_id=UUID(int=2),
    app="app",
    api_key_id=UUID(int=3),
    instruction=None,
)


def chat(**fields: object) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": "brave king"}]
    return msgspec.convert({"model": "m", "messages": messages, **fields}, ChatCompletionRequest)


@pytest.mark.parametrize(
    ("asked", "tier", "urgency"),
    [
        (None, "default", 1.0),
        ("auto", "default", 1.0),
        ("default", "default", 1.0),
        ("flex", "flex", 0.25),
        ("priority", "priority", 4.0),
        ("fast", "priority", 4.0),
    ],
)
def test_tier_that_is_asked_for_is_applied_and_told(
    asked: str | None, tier: str, urgency: float
) -> None:
    request = chat(service_tier=asked)
    ask = request.ask(CALLER)
    assert (ask.service_tier, ask.urgency) == (tier, urgency)
    assert request.applied_tier == (UNSET if asked is None else tier)


def test_text_completions_have_tiers_too() -> None:
    request = CompletionRequest(model="m", prompt=["a", "b"], service_tier="flex")
    assert [ask.urgency for ask in request.asks(CALLER)] == [0.25, 0.25]


@pytest.mark.parametrize("name", ["", "gold", "Priority", "scale"])
def test_unknown_tier_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidRequest, match="accepted are auto, default, flex, pri") as caught:
        chat(service_tier=name).ask(CALLER)
    assert caught.value.param == "service_tier"


def test_patience_is_carried_to_each_ask() -> None:
    patience = ClientTimeouts(deadline_s=2.0, max_queue_s=1.0)
    asks = [
        chat().ask(CALLER, patience),
        *CompletionRequest(model="m", prompt=["a", "b"]).asks(CALLER, patience),
    ]
    assert {(ask.deadline_s, ask.max_queue_s) for ask in asks} == {(2.0, 1.0)}
