"""Checks of every admin route."""

import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from litestar import Litestar

UNKNOWN = UUID(int=7)

ROUTES = {
    ("GET", "/admin/tenants"),
    ("POST", "/admin/tenants"),
    ("GET", "/admin/tenants/{tenant_id}/apps"),
    ("POST", "/admin/tenants/{tenant_id}/apps"),
    ("GET", "/admin/apps"),
    ("GET", "/admin/apps/{app_id}/keys"),
    ("POST", "/admin/apps/{app_id}/keys"),
    ("GET", "/admin/keys/{key_id}"),
    ("PATCH", "/admin/keys/{key_id}"),
    ("DELETE", "/admin/keys/{key_id}"),
    ("POST", "/admin/keys/{key_id}/rotate"),
    ("GET", "/admin/predictors"),
    ("POST", "/admin/predictors"),
    ("GET", "/admin/predictors/{predictor_id}"),
    ("POST", "/admin/predictors/{predictor_id}/activate"),
    ("GET", "/admin/training-runs"),
    ("GET", "/admin/training-runs/{run_id}"),
    ("GET", "/admin/tenants/{tenant_id}"),
    ("PATCH", "/admin/tenants/{tenant_id}"),
    ("DELETE", "/admin/tenants/{tenant_id}"),
    ("PATCH", "/admin/apps/{app_id}"),
    ("DELETE", "/admin/apps/{app_id}"),
    ("DELETE", "/admin/tenants/{tenant_id}/samples"),
    ("DELETE", "/admin/tenants/{tenant_id}/files"),
    ("POST", "/admin/predictors/rollback"),
    ("POST", "/admin/predictors/import"),
    ("POST", "/admin/predictors/samples"),
    ("GET", "/admin/predictors/{predictor_id}/export"),
    ("GET", "/admin/predictors/{predictor_id}/compare/{other_id}"),
    ("POST", "/admin/training-runs/{run_id}/cancel"),
    ("GET", "/admin/training-schedule"),
    ("PUT", "/admin/training-schedule"),
    ("GET", "/admin/drift"),
    ("GET", "/admin/audit"),
    ("GET", "/admin/scoped-keys"),
    ("POST", "/admin/scoped-keys"),
    ("DELETE", "/admin/scoped-keys/{key_id}"),
    ("GET", "/admin/policy"),
    ("PUT", "/admin/policy"),
    ("GET", "/admin/engine"),
    ("POST", "/admin/engine/pause"),
    ("POST", "/admin/engine/drain"),
    ("POST", "/admin/engine/resume"),
    ("GET", "/admin/queue"),
    ("GET", "/admin/requests"),
    ("GET", "/admin/requests/{request_id}"),
    ("POST", "/admin/requests/{request_id}/cancel"),
    ("GET", "/admin/batches"),
    ("GET", "/admin/usage"),
    ("GET", "/admin/limits"),
    ("PUT", "/admin/limits"),
    ("DELETE", "/admin/limits/{limit_id}"),
    ("GET", "/admin/prices"),
    ("POST", "/admin/prices"),
    ("DELETE", "/admin/prices/{price_id}"),
}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/admin/tenants/{tenant_id}/apps"): {"name": "x"},
    ("POST", "/admin/apps/{app_id}/keys"): {"name": "x"},
    ("PATCH", "/admin/tenants/{tenant_id}"): {"learning": False},
    ("PATCH", "/admin/apps/{app_id}"): {"name": "x"},
    ("PATCH", "/admin/keys/{key_id}"): {"name": "x"},
    ("POST", "/admin/keys/{key_id}/rotate"): {"name": "x"},
}


def documented(application: Litestar) -> dict[tuple[str, str], dict[str, Any]]:
    paths = application.openapi_schema.to_schema()["paths"]
    return {
        (method.upper(), path): operation
        for path, item in paths.items()
        for method, operation in item.items()
    }


def filled(path: str) -> str:
    """The path with an unknown id."""
    return re.sub(r"{\w+}", str(uuid4()), path)


def test_documented_routes_are_the_promised_ones(application: Litestar) -> None:
    assert documented(application).keys() == ROUTES


def test_every_route_is_documented_with_a_summary_and_a_description(application: Litestar) -> None:
    for operation in documented(application).values():
        assert operation["summary"]
        assert operation["description"]
        assert operation["security"] == [{"bearer": []}]


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic YTpi"])
async def test_missing_or_wrong_key_gets_a_401_of_openais_shape_on_every_route(
    client: httpx.AsyncClient, authorization: str | None
) -> None:
    del client.headers["authorization"]
    headers = {} if authorization is None else {"authorization": authorization}
    for method, path in sorted(ROUTES):
        response = await client.request(method, filled(path), headers=headers, content=b"{broken")
        assert response.status_code == 401, (method, path)
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


async def test_unknown_id_is_a_404_of_openais_shape_on_every_route(
    client: httpx.AsyncClient,
) -> None:
    for method, path in sorted(each for each in ROUTES if "{" in each[1]):
        body = BODIES.get((method, path))
        response = await client.request(method, filled(path), json=body)
        assert response.status_code == 404, (method, path, response.text)
        assert response.json()["error"]["code"] == "not_found"
        assert "there is no" in response.json()["error"]["message"], (method, path)


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", f"/admin/queue?offset={10**23}", "offset"),
        ("GET", f"/admin/tenants?limit={'1' * 5000}", "limit"),
        ("GET", "/admin/tenants?limit=5.0", "limit"),
        ("GET", "/admin/queue?limit=1e2", "limit"),
        ("GET", "/admin/queue?limit=1&limit=2", "limit"),
        ("GET", "/admin/drift?hours=nan", "hours"),
        ("GET", "/admin/audit?subject=%00", "subject"),
        ("DELETE", f"/admin/tenants/{UNKNOWN}/samples?user=a%00", "user"),
    ],
    ids=["offset", "limit", "5.0", "1e2", "twice", "hours", "subject", "user"],
)
async def test_query_parameter_out_of_bounds_is_a_short_400_that_names_it(
    client: httpx.AsyncClient, method: str, path: str, param: str
) -> None:
    response = await client.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert len(error["message"]) < 300


async def test_misspelt_query_parameter_is_refused_by_name(client: httpx.AsyncClient) -> None:
    error = (await client.get("/admin/tenants?limt=5")).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "limt")
    assert "after, limit" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/admin/tenants", {"name": "x", "share": "1"}, "share"),
        ("POST", "/admin/tenants", {"name": "x", "share": True}, "share"),
        ("POST", "/admin/tenants", {"name": 1}, "name"),
        ("PATCH", f"/admin/tenants/{UNKNOWN}", {"learning": "true"}, "learning"),
        ("PATCH", f"/admin/tenants/{UNKNOWN}", {"learning": 1}, "learning"),
    ],
)
async def test_numbers_and_booleans_of_bodies_are_those_of_json(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], param: str
) -> None:
    response = await client.request(method, path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
