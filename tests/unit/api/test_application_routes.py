"""What holds around every route: request ids, CORS, the schema page."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from litestar import get, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig

from gateway.api.cors import cors
from gateway.api.errors import exception_handlers
from gateway.api.guards import bearer
from gateway.api.request_id import IdentifyingApp
from gateway.api.schema_page import schema_plugins
from gateway.errors import StartupFailure
from gateway.settings import read_settings

ORIGIN = "https://chat.example.org"


def needs_a_key(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    bearer(connection)


@post("/guarded", guards=[needs_a_key])
async def guarded() -> None:
    """A route <with> a key."""


@get("/broken")
async def broken() -> None:
    raise KeyError


def an_app(origins: str) -> IdentifyingApp:
    return IdentifyingApp(
        [guarded, broken],
        exception_handlers=exception_handlers,
        cors_config=cors(origins),
        logging_config=None,
        openapi_config=OpenAPIConfig(
            "A <gateway>", "1", render_plugins=schema_plugins(), use_handler_docstrings=True
        ),
    )


async def client_of(app: IdentifyingApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async for made in client_of(an_app(ORIGIN)):
        yield made


@pytest.fixture
async def closed_client() -> AsyncIterator[httpx.AsyncClient]:
    async for made in client_of(an_app("")):
        yield made


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/guarded", 405),
        ("POST", "/guarded", 401),
        ("GET", "/broken", 500),
    ],
)
async def test_every_answer_names_its_request(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    responses = [await client.request(method, path) for _ in range(2)]
    assert [response.status_code for response in responses] == [status, status]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", request_id) for request_id in ids)
    assert ids[0] != ids[1]
    assert responses[0].headers["openai-processing-ms"].isdigit()


async def test_preflight_request_needs_no_key(client: httpx.AsyncClient) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    response = await client.options("/guarded", headers=asked)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"].lower()


async def test_refused_preflight_request_is_an_error_of_openais_shape(
    client: httpx.AsyncClient,
) -> None:
    asked = {"origin": f"https://{'x' * 5000}.org", "access-control-request-method": "POST"}
    response = await client.options("/guarded", headers=asked)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (403, "origin_not_allowed")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert len(error["message"]) < 300


async def test_page_of_an_allowed_origin_may_read_answers(client: httpx.AsyncClient) -> None:
    response = await client.post("/guarded", headers={"origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_page_of_another_origin_may_not(client: httpx.AsyncClient) -> None:
    response = await client.post("/guarded", headers={"origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in response.headers


async def test_no_origin_is_allowed_unless_it_is_set(closed_client: httpx.AsyncClient) -> None:
    response = await closed_client.post("/guarded", headers={"origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("value", ["*", "https://a.example.org,http://localhost:3000"])
def test_origins_are_accepted(value: str) -> None:
    assert read_settings({"LMAAS_CORS_ORIGINS": value}).cors_origins == value


@pytest.mark.parametrize("value", ["example.org", "https://a.example.org/", "*,https://a.b"])
def test_what_is_no_origin_stops_the_start(value: str) -> None:
    with pytest.raises(StartupFailure, match="LMAAS_CORS_ORIGINS"):
        read_settings({"LMAAS_CORS_ORIGINS": value})


@pytest.mark.parametrize("path", ["/schema", "/schema/nothing"])
async def test_schema_page_loads_nothing_from_elsewhere(
    client: httpx.AsyncClient, path: str
) -> None:
    page = (await client.get(path)).text
    assert "<html" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=['\"](https?:)?//", page)


async def test_schema_page_lists_routes_escaped(client: httpx.AsyncClient) -> None:
    page = (await client.get("/schema")).text
    assert "<b>POST /guarded</b>" in page
    assert "A route &lt;with&gt; a key." in page
    assert "<h1>A &lt;gateway&gt; 1</h1>" in page


async def test_schema_is_served_as_json_and_yaml(client: httpx.AsyncClient) -> None:
    schema = json.loads((await client.get("/schema/openapi.json")).content)
    assert "/guarded" in schema["paths"]
    assert "/guarded" in (await client.get("/schema/openapi.yaml")).text
