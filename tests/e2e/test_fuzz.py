"""No input makes the gateway fail: seeded random bodies, query parameters and paths."""

import json
import random
from typing import Any
from uuid import uuid4

import pytest

from gateway.api.openai.chat_schema import RULES as CHAT_RULES
from gateway.api.openai.completion_schema import RULES as TEXT_RULES
from tests.e2e.fuzzing import NUMBERS, SMALL, TEXTS, a_value, check_answer

BODIES = 400  # per route
QUERIES = 25  # per route
HEADER_SETS = 40  # per route
HEADERS = [
    *("x-lmaas-deadline-ms", "x-lmaas-max-queue-ms", "x-stainless-read-timeout"),
    *("x-stainless-timeout", "content-type", "content-encoding", "accept", "origin", "cookie"),
    *("authorization", "x-request-id", "expect", "range", "if-none-match", "x-forwarded-for"),
]
VALUES = [
    *("", "0", "1", "60000", "-1", "5.0", "1e2", "nan", "inf", "1_0", "9" * 400, "é"),
    *("gzip", "br", "identity", "text/plain", "application/json; charset=utf-16", "*/*", "="),
    *("multipart/form-data", "application/x-msgpack", "Bearer", "Basic YTpi", "bytes=0-1", ";"),
]
ROUTES = {
    "/v1/chat/completions": CHAT_RULES,
    "/v1/completions": TEXT_RULES,
    "/v1/length-predictions": CHAT_RULES,
}


def a_message(rng: random.Random) -> Any:
    message: dict[str, Any] = {
        "role": rng.choice(["system", "developer", "user", "assistant", "user", "tool"]),
        "content": rng.choice(TEXTS),
    }
    if rng.random() < 0.3:
        message["content"] = [{"type": "text", "text": rng.choice(TEXTS)}] * rng.randrange(3)
    if rng.random() < 0.1:
        message[rng.choice(["content", "role", "name", "tool_calls", "x"])] = a_value(rng)
    return message


def a_body(rng: random.Random, path: str) -> Any:
    """A body of which most fields are valid: the few others are read."""
    if rng.random() < 0.05:
        return a_value(rng)
    rules = ROUTES[path]
    body: dict[str, Any] = {"model": "lmaas-demo", "max_tokens": rng.choice([1, 2, 3])}
    body["messages"] = [a_message(rng) for _ in range(rng.randrange(1, 3))]
    if "prompt" in rules.supported:
        del body["messages"]
        body["prompt"] = rng.choice([*TEXTS, ["king", "queen"], [1, 2], [[3], [4]], [0], []])
    names = sorted({*rules.supported, *rules.ignored})
    for name in rng.sample(names, rng.randrange(4)):
        if name not in {"model", "messages", "prompt", "max_tokens"} or rng.random() < 0.2:
            body[name] = rng.choice(SMALL) if rng.random() < 0.7 else a_value(rng)
    if rng.random() < 0.1:
        body[rng.choice([*rules.refused, *TEXTS])] = a_value(rng)
    return body


@pytest.mark.parametrize("path", ROUTES)
async def test_no_body_makes_a_model_route_fail(served: Any, path: str) -> None:
    rng, statuses = random.Random(path), []
    async with served.caller() as caller:
        for _ in range(BODIES):
            body = json.dumps(a_body(rng, path))
            answer = await caller.post(path, content=body)
            check_answer(answer, body)
            assert '"error":{"message":' not in answer.text or answer.status_code >= 400, body
            statuses.append(answer.status_code)
    assert {200, 400} <= set(statuses)


@pytest.mark.parametrize("path", [*ROUTES, "/v1/models", "/health/ready", "/metrics", "/schema"])
async def test_no_header_makes_a_route_fail(served: Any, path: str) -> None:
    rng = random.Random(path)
    body = json.dumps(a_body(random.Random(3), path)) if path in ROUTES else None
    async with served.caller() as caller:
        for _ in range(HEADER_SETS):
            names = rng.sample(HEADERS, rng.randrange(1, 4))
            headers = {name: rng.choice(VALUES).encode() for name in names}
            method = "POST" if body else rng.choice(["GET", "HEAD"])
            answer = await caller.request(method, path, headers=headers, content=body)
            # 503: a deadline or wait in the headers is too short
            check_answer(answer, (path, headers), unavailable=path in ROUTES)


async def test_no_query_makes_an_admin_route_fail(served: Any) -> None:
    rng = random.Random(16)
    values = [*map(str, [*NUMBERS, *SMALL]), *TEXTS, "inf", "5.0", "1" * 4000, str(uuid4())]
    async with served.admin() as admin:
        paths = (await admin.get("/schema/openapi.json")).json()["paths"]
        read = {
            p: item["get"] for p, item in paths.items() if p.startswith("/admin/") and "get" in item
        }
        assert len(read) > 10
        for path, operation in read.items():
            parameters = operation.get("parameters", [])
            for _ in range(QUERIES if parameters else 1):
                chosen = {each["name"]: rng.choice(values) for each in parameters}
                url = path
                for each in parameters:
                    if each["in"] == "path":
                        url = url.replace(
                            f"{{{each['name']}}}", rng.choice([str(uuid4()), "0", "%00"])
                        )
                query = {e["name"]: chosen[e["name"]] for e in parameters if e["in"] == "query"}
                kept = {n: v for n, v in query.items() if rng.random() < 0.6}
                check_answer(await admin.get(url, params=kept), (url, kept))
