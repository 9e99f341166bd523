"""Every admin route while the database hangs: an answer in time, never a wait without end."""

import asyncio
import time
from collections.abc import Callable

import httpx

from gateway.database.errors import CONNECTION_S
from tests.hanging_postgres import HangingPostgres, postgres_url, sessions
from tests.integration.api_admin.test_every_route import BODIES, ROUTES, filled

fixtures = (postgres_url, sessions)
MARGIN_S = 20.0  # for a busy machine; a query that hangs takes for ever
WITHOUT_DATABASE = {"/admin/policy", "/admin/engine", "/admin/queue"}
POLICY = {"name": "fcfs"}


async def test_every_route_answers_in_time(
    client: httpx.AsyncClient, suspend: Callable[[], None]
) -> None:
    suspend()

    async def ask(method: str, path: str) -> httpx.Response:
        body = BODIES.get((method, path), POLICY if path == "/admin/policy" else {"name": "x"})
        return await client.request(method, filled(path), json=body)

    began = time.monotonic()
    routes = sorted(ROUTES)
    answers = await asyncio.gather(*(ask(*route) for route in routes))
    assert time.monotonic() - began < CONNECTION_S + MARGIN_S
    lost = set()
    for (method, path), answer in zip(routes, answers, strict=True):
        if path in WITHOUT_DATABASE:
            assert answer.status_code == 200, (method, path, answer.text)
        elif answer.status_code >= 500:
            assert answer.status_code == 503, (method, path, answer.text)
            assert answer.json()["error"]["code"] == "database_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            lost.add((method, path))
    assert {("GET", "/admin/tenants"), ("POST", "/admin/tenants"), ("GET", "/admin/audit")} <= lost


async def test_scoped_key_gets_503_while_the_database_hangs(
    client: httpx.AsyncClient, hanging: HangingPostgres
) -> None:
    made = await client.post("/admin/scoped-keys", json={"name": "ci", "scopes": ["read"]})
    client.headers["authorization"] = f"Bearer {made.json()['secret']}"
    hanging.suspend()
    answer = await client.get("/admin/queue")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"]
