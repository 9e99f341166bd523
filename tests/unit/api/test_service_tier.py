"""Service tiers: requested by clients, applied, and shown in answers."""

from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.completion_schema import CompletionRequest
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest, KeyForbids, UnsupportedParameter
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
    ("requested", "tier", "urgency"),
    [
        (None, "default", 1.0),
        ("auto", "default", 1.0),
        ("default", "default", 1.0),
        ("flex", "flex", 0.25),
        ("priority", "priority", 4.0),
        ("fast", "priority", 4.0),
    ],
)
def test_requested_tier_is_applied_and_shown(
    requested: str | None, tier: str, urgency: float
) -> None:
    body = chat(service_tier=requested)
    request = body.to_request(CALLER)
    assert (request.service_tier, request.urgency) == (tier, urgency)
    assert body.shown_tier(request.service_tier) == (UNSET if requested is None else tier)


@pytest.mark.parametrize(
    ("allowed", "requested", "tier"),
    [
        (("default", "flex"), None, "default"),
        (("flex", "priority"), "auto", "flex"),
        (("priority",), None, "priority"),
        (("flex",), "flex", "flex"),
        (("priority",), "fast", "priority"),
    ],
)
def test_tier_is_one_that_the_key_allows(
    allowed: tuple[str, ...], requested: str | None, tier: str
) -> None:
    caller = msgspec.structs.replace(CALLER, service_tiers=allowed)
    body = chat(service_tier=requested)
    request = body.to_request(caller)
    assert request.service_tier == tier
    assert body.shown_tier(request.service_tier) == (UNSET if requested is None else tier)


def test_tier_that_the_key_does_not_allow_is_refused_with_those_it_does() -> None:
    caller = msgspec.structs.replace(CALLER, service_tiers=("default", "flex"))
    with pytest.raises(KeyForbids, match="'priority'; allowed: default, flex") as caught:
        chat(service_tier="priority").to_request(caller)
    assert (caught.value.param, caught.value.code) == ("service_tier", "not_allowed_for_key")


def test_deadline_that_the_key_does_not_allow_is_refused_with_the_least() -> None:
    caller = msgspec.structs.replace(CALLER, min_deadline_s=2.0)
    for seconds in (None, 2.0, 3.0):
        chat().to_request(caller, ClientTimeouts(deadline_s=seconds))
    with pytest.raises(KeyForbids, match="below 2000 ms; x-lmaas-deadline-ms is 1999") as caught:
        chat().to_request(caller, ClientTimeouts(deadline_s=1.999))
    assert caught.value.param == "x-lmaas-deadline-ms"


def test_text_completions_have_tiers_too() -> None:
    body = CompletionRequest(model="m", prompt=["a", "b"], service_tier="flex")
    assert [request.urgency for request in body.to_requests(CALLER)] == [0.25, 0.25]


@pytest.mark.parametrize("name", ["", "gold", "Priority"])
def test_unknown_tier_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidRequest, match="accepted are auto, default, flex, pri") as caught:
        chat(service_tier=name).to_request(CALLER)
    assert caught.value.param == "service_tier"


def test_tier_that_only_openai_has_is_unsupported() -> None:
    with pytest.raises(UnsupportedParameter, match="accepted are auto, default") as caught:
        chat(service_tier="scale").to_request(CALLER)
    assert caught.value.param == "service_tier"


def test_timeouts_are_carried_to_each_request() -> None:
    timeouts = ClientTimeouts(deadline_s=2.0, max_queue_s=1.0)
    requests = [
        chat().to_request(CALLER, timeouts),
        *CompletionRequest(model="m", prompt=["a", "b"]).to_requests(CALLER, timeouts),
    ]
    assert {(request.deadline_s, request.max_queue_s) for request in requests} == {(2.0, 1.0)}
