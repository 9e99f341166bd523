"""Keys for a part of the admin API."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from gateway.tenancy.scopes import Scope
from tests.integration.api_admin.test_every_route import BODIES, ROUTES, filled

Client = httpx.AsyncClient
As = Callable[..., Awaitable[Client]]

# Changes under these paths need this scope; all others need the admin key.
AREAS = {
    "/admin/tenants": "tenants",
    "/admin/apps": "tenants",
    "/admin/keys": "tenants",
    "/admin/predictors": "predictors",
    "/admin/training": "predictors",
    "/admin/limits": "tenants",
    "/admin/prices": "tenants",
    "/admin/usage": "tenants",
    "/admin/batches": "tenants",
    "/admin/policy": "engine",
    "/admin/engine": "engine",
    "/admin/queue": "engine",
    "/admin/requests": "tenants",  # those that have ended
    "/admin/requests/": "engine",  # and those that wait or run
}


@pytest.fixture
def bearing(client: Client) -> As:
    """Switches the client to a new key with these scopes."""

    async def become(*scopes: str) -> Client:
        made = await client.post("/admin/scoped-keys", json={"name": "ci", "scopes": scopes})
        assert made.status_code == 201
        client.headers["authorization"] = f"Bearer {made.json()['secret']}"
        return client

    return become


@pytest.mark.parametrize("scope", list(Scope))
async def test_scoped_key_is_limited_to_its_scope_on_every_route(bearing: As, scope: Scope) -> None:
    client = await bearing(scope)
    for method, path in sorted(ROUTES):
        fitting = [start for start in AREAS if path.startswith(start)]
        needed = {AREAS[max(fitting, key=len)]} if fitting else set()
        if method == "GET" and path != "/admin/scoped-keys":
            needed |= {"read"} | ({"predictors"} if path == "/admin/drift" else set())
        if scope in needed and (method != "GET" or "compare" in path):
            continue  # it would take effect; tested once below
        response = await client.request(method, filled(path), json=BODIES.get((method, path)))
        assert (response.status_code != 403) == (scope in needed), (method, path)


async def test_forbidden_names_the_needed_scope(bearing: As) -> None:
    client = await bearing("read", "engine")
    assert (await client.get("/admin/tenants")).status_code == 200
    assert (await client.post("/admin/engine/pause")).status_code == 200
    refused = await client.post("/admin/tenants", json={"name": "acme"})
    assert refused.status_code == 403
    error = refused.json()["error"]
    assert error["code"] == "insufficient_permissions"
    assert error["message"] == "the key 'ci' may not do this; needed is tenants"


async def test_audit_trail_names_the_key(client: Client, bearing: As) -> None:
    admin = client.headers["authorization"]
    await bearing("predictors")
    await client.put("/admin/training-schedule", json={"drift": False})
    client.headers["authorization"] = admin
    listed = (await client.get("/admin/audit")).json()["data"]
    assert [(step["actor"], step["action"]) for step in listed] == [
        ("ci", "schedule.changed"),
        ("admin", "scoped_key.made"),
    ]


async def test_revoked_key_is_refused_at_once(client: Client, bearing: As) -> None:
    admin = client.headers["authorization"]
    theirs = (await bearing("read")).headers["authorization"]
    client.headers["authorization"] = admin
    (key,) = (await client.get("/admin/scoped-keys")).json()["data"]
    assert (key["scopes"], key["revoked_at"]) == (["read"], None)
    assert "secret" not in key
    for _ in range(2):
        revoked = await client.delete(f"/admin/scoped-keys/{key['id']}")
        assert revoked.json()["revoked_at"] is not None
    response = await client.get("/admin/tenants", headers={"authorization": theirs})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": "x", "scopes": []}, 400, "scopes"),
        ({"name": "x", "scopes": ["everything"]}, 400, "scopes[0]"),
        ({"name": "admin", "scopes": ["read"]}, 400, "name"),
        ({"name": "", "scopes": ["read"]}, 400, "name"),
    ],
)
async def test_wrong_key_request_names_its_field(
    client: Client, body: dict[str, object], status: int, param: str
) -> None:
    response = await client.post("/admin/scoped-keys", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
