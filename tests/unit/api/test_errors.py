"""Every error that a client can get has OpenAI's shape."""

import json
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar, get, post
from litestar.exceptions import (
    HTTPException,
    NotAuthorizedException,
    PermissionDeniedException,
    ServiceUnavailableException,
    TooManyRequestsException,
)
from litestar.params import FromQuery, JSONBody
from msgspec import Struct
from structlog.testing import capture_logs

from gateway.api.errors import STATUS, error_body, exception_handlers, status_of
from gateway.errors import (
    Conflict,
    DeadlineUnreachable,
    InvalidRequest,
    LmaasError,
    QueueFull,
    QueueTimeExceeded,
    RequestCancelled,
    TenantQueueFull,
    Unauthenticated,
)

TYPES = {
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
}


class Inner(Struct):
    role: str


class Body(Struct, forbid_unknown_fields=True):
    name: str
    messages: list[Inner] = []


def raising(error: Exception) -> Any:
    @get("/raise")
    async def handler() -> None:
        raise error

    return handler


@post("/body")
async def takes_body(data: JSONBody[Body], limit: FromQuery[int] = 1) -> Body:
    del limit
    return data


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Litestar([takes_body], exception_handlers=exception_handlers, request_max_body_size=200)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def answer_to(error: Exception) -> httpx.Response:
    app = Litestar([raising(error)], exception_handlers=exception_handlers)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get("/raise")


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, after a check of its shape."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert error["type"] in TYPES
    assert (error["type"] == "server_error") == (response.status_code >= 500)
    return error


def descendants(kind: type[LmaasError]) -> Iterator[type[LmaasError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from descendants(child)


@pytest.mark.parametrize("kind", list(descendants(LmaasError)), ids=lambda kind: kind.__name__)
async def test_every_error_class_has_its_status_message_param_and_code(
    kind: type[LmaasError],
) -> None:
    response = await answer_to(kind("what is wrong", param="where"))
    error = error_of(response)
    assert response.status_code == status_of(kind("x"))
    assert (error["message"], error["param"]) == ("what is wrong", "where")
    assert error["code"] == kind.code
    assert ("retry-after" in response.headers) == (response.status_code in {429, 503})


def test_every_error_class_except_startup_has_a_status() -> None:
    unlisted = {
        kind.__name__
        for kind in descendants(LmaasError)
        if status_of(kind("x")) == 500 and kind not in STATUS
    }
    assert unlisted <= {"StartupFailure"}


def test_error_in_a_stream_has_the_same_body() -> None:
    detail = error_body(InvalidRequest("no", param="n")).error
    assert (detail.message, detail.type, detail.param) == ("no", "invalid_request_error", "n")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotAuthorizedException("no"), 401, "authentication_error"),
        (PermissionDeniedException("no"), 403, "permission_error"),
        (TooManyRequestsException("no"), 429, "rate_limit_error"),
        (HTTPException("no", status_code=415), 415, "invalid_request_error"),
        (ServiceUnavailableException("no"), 503, "server_error"),
    ],
)
async def test_framework_errors_have_openais_shape(
    error: HTTPException, status: int, kind: str
) -> None:
    response = await answer_to(error)
    assert response.status_code == status
    assert error_of(response)["type"] == kind


async def test_defect_is_logged_and_hidden_from_the_client() -> None:
    with capture_logs() as logs:
        response = await answer_to(KeyError("hunter2"))
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"
    assert "hunter2" not in response.text
    assert [(entry["event"], type(entry["exc_info"])) for entry in logs] == [
        ("request_crashed", KeyError)
    ]


async def test_conflict_is_not_to_be_retried() -> None:
    assert (await answer_to(Conflict("taken"))).headers["x-should-retry"] == "false"


@pytest.mark.parametrize("kind", [TenantQueueFull, QueueFull])
async def test_full_queue_says_when_to_retry_and_whether_a_library_should(
    kind: type[TenantQueueFull | QueueFull],
) -> None:
    soon = await answer_to(kind("full", retry_after_s=6.2))
    assert soon.headers["retry-after"] == "7"
    assert "x-should-retry" not in soon.headers
    late = await answer_to(kind("full", retry_after_s=90.0, should_retry=False))
    assert (late.headers["retry-after"], late.headers["x-should-retry"]) == ("90", "false")


async def test_unreachable_deadline_is_not_retried_by_libraries() -> None:
    late = await answer_to(DeadlineUnreachable("no", retry_after_s=3.0))
    assert (late.headers["retry-after"], late.headers["x-should-retry"]) == ("3", "false")
    assert "x-should-retry" not in (await answer_to(QueueTimeExceeded("no"))).headers


async def test_refused_key_names_the_scheme() -> None:
    assert (await answer_to(Unauthenticated("no"))).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/nowhere", "/body/7"])
async def test_wrong_path_is_named(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path)
    assert response.status_code == 404
    assert error_of(response)["message"] == f"there is no POST {path}"


async def test_refused_method_lists_the_accepted_ones(client: httpx.AsyncClient) -> None:
    response = await client.get("/body")
    assert "POST" in response.headers["allow"]
    assert response.headers["allow"] in error_of(response)["message"]


async def test_body_too_large_is_a_413(client: httpx.AsyncClient) -> None:
    response = await client.post("/body", json={"name": "x" * 300})
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "a body in JSON is needed", None),
        (b"{", "the body is not JSON: ", None),
        (b"\xff", "the body is not JSON: ", None),
        (b"[]", "the body: expected `object`, got `array`", None),
        (b"{}", "name: is required", "name"),
        (b'{"name": 3}', "name: expected `str`, got `int`", "name"),
        (b'{"name": "a", "nam": 1}', "nam: is not a known field", "nam"),
        (
            b'{"name": "a", "messages": [{"role": 1}]}',
            "messages[0].role: expected `str`, got `int`",
            "messages[0].role",
        ),
        (b'{"name": "a", "messages": [{}]}', "messages[0].role: is required", "messages[0].role"),
    ],
)
async def test_invalid_body_is_a_400_with_message_and_path(
    client: httpx.AsyncClient, body: bytes, message: str, param: str | None
) -> None:
    response = await client.post("/body", content=body)
    assert response.status_code == 400
    error = error_of(response)
    assert error["message"].startswith(message)
    assert error["param"] == param


async def test_invalid_query_is_a_400_with_message_and_parameter(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/body?limit=many", content=json.dumps({"name": "a"}))
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "limit")
    assert error["message"] == "limit: expected `int`, got `str`"


@pytest.mark.parametrize(
    ("wait_s", "retry_after"),
    [(0.0, "1"), (0.2, "1"), (3.01, "4"), (30.0, "30"), (math.inf, "86400")],
)
async def test_unreachable_deadline_has_retry_after_in_whole_seconds(
    wait_s: float, retry_after: str
) -> None:
    response = await answer_to(DeadlineUnreachable("too late", retry_after_s=wait_s))
    assert (response.status_code, response.headers["retry-after"]) == (503, retry_after)
    assert error_of(response)["code"] == "deadline_unreachable"


async def test_request_cancelled_by_an_operator_is_not_to_be_retried() -> None:
    response = await answer_to(RequestCancelled("an operator cancelled it"))
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert "retry-after" not in response.headers
