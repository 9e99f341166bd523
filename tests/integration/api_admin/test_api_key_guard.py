"""The guard of the routes that apps call."""

from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar, post
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody

from gateway.api.errors import exception_handlers
from gateway.api.guards import api_key_guard, provide_caller
from gateway.tenancy.caller import Caller
from tests.conftest import Builder


@post("/whoami")
async def whoami(caller: NamedDependency[Caller], data: JSONBody[dict[str, str]]) -> str:
    del data
    return f"{caller.tenant}/{caller.app}"


@pytest.fixture
async def client(build: Builder) -> AsyncIterator[httpx.AsyncClient]:
    app = Litestar(
        [whoami],
        guards=[api_key_guard(build.authenticator)],
        dependencies={"caller": Provide(provide_caller)},
        exception_handlers=exception_handlers,
        openapi_config=None,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_valid_key_identifies_the_caller(
    client: httpx.AsyncClient, build: Builder, scheme: str
) -> None:
    app = await build.app(await build.tenant("acme"), name="mail")
    new = await build.key(app)
    headers = {"authorization": f"{scheme} {new.secret}"}
    response = await client.post("/whoami", json={}, headers=headers)
    assert response.text == "acme/mail"


@pytest.mark.parametrize("header", ["", "Bearer ", "Basic eDp5", "Bearer sk-lmaas-unknown"])
async def test_unknown_key_is_refused_before_the_body_is_read(
    client: httpx.AsyncClient, header: str
) -> None:
    response = await client.post("/whoami", content=b"{", headers={"authorization": header})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "sk-lmaas-unknown" not in response.text
