"""Fields of requests: none is ignored in silence, and numbers follow one rule."""

from typing import Any

import pytest

CHAT = {"model": "lmaas-demo", "messages": [{"role": "user", "content": "king"}], "max_tokens": 2}
TEXT = {"model": "lmaas-demo", "prompt": "king", "max_tokens": 2}
ROUTES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", TEXT),
    ("/v1/length-predictions", CHAT),
]
LONG = "x" * 100_000


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("stream", [False, True])
async def test_header_names_the_ignored_fields(
    served: Any, path: str, body: dict[str, Any], *, stream: bool
) -> None:
    async with served.caller() as caller:
        plain = await caller.post(path, json={**body, "stream": stream})
        ignored = {"store": True, "metadata": {"a": "b"}, "request_id": None}
        answer = await caller.post(path, json={**body, "stream": stream, **ignored})
    assert (plain.status_code, answer.status_code) == (200, 200)
    assert "x-lmaas-ignored-parameters" not in plain.headers
    assert answer.headers["x-lmaas-ignored-parameters"] == "store, metadata"


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("name", ["use_beam_search", "max_token", "echo"])
async def test_unsupported_field_is_refused_by_name(
    served: Any, path: str, body: dict[str, Any], name: str
) -> None:
    async with served.caller() as caller:
        answer = await caller.post(path, json={**body, name: {"type": "object"}})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    assert f"{name} is not supported by this gateway" in error["message"]


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", "1"),
        ("n", 1.0),
        ("n", True),
        ("max_tokens", 5.0),
        ("seed", "0"),
        ("top_k", 5.0),
        ("temperature", "0"),
        ("temperature", False),
        ("stream", "true"),
        ("stream", 1),
        ("logit_bias", {"5": "1"}),
        ("user", "a\0b"),
    ],
)
async def test_value_of_another_json_type_is_refused(
    served: Any, path: str, body: dict[str, Any], name: str, value: object
) -> None:
    async with served.caller() as caller:
        answer = await caller.post(path, json={**body, name: value})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_value")
    assert error["param"].startswith(name)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_answer_limit_that_does_not_fit_is_named_with_the_number_that_does(
    served: Any, name: str
) -> None:
    body = {"model": CHAT["model"], "messages": CHAT["messages"]}
    async with served.caller() as caller:
        answer = await caller.post("/v1/chat/completions", json={**body, name: 65_535})
        error = answer.json()["error"]
        most = int(error["message"].partition("at most ")[2].split()[0])
        accepted = await caller.post("/v1/length-predictions", json={**body, name: most})
        refused = await caller.post("/v1/length-predictions", json={**body, name: most + 1})
    assert (error["code"], error["param"]) == ("context_length_exceeded", name)
    assert (accepted.status_code, refused.status_code) == (200, 400)


@pytest.mark.parametrize(
    "change",
    [
        {"model": LONG},
        {LONG: 1},
        {"service_tier": LONG},
        {"max_tokens": int("9" * 4000)},
        {"n": int("9" * 4000)},
        {"logit_bias": {LONG: 1}},
        {"messages": [{"role": LONG, "content": "x"}]},
        {"messages": [{"role": "user", LONG: "x"}]},
        {"messages": [{"role": "user", "content": [{"type": LONG}]}]},
    ],
    ids=["model", "name", "tier", "limit", "choices", "bias", "role", "field", "part"],
)
async def test_errors_repeat_little_of_the_input(served: Any, change: dict[str, Any]) -> None:
    async with served.caller() as caller:
        answer = await caller.post("/v1/chat/completions", json={**CHAT, **change})
    assert answer.status_code in {400, 404}
    assert len(answer.json()["error"]["message"]) < 400
    assert len(answer.json()["error"]["param"] or "") < 300
