"""Who may call each route, and what another tenant's id answers. A new route needs a line here."""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from models.base import new_id

OPEN, KEY, ADMIN = "open", "key", "admin"  # no key; an API key; the admin key alone
READ = "read"  # an area that no scope changes
ROUTES = {
    "GET /health": OPEN,
    "GET /health/live": OPEN,
    "GET /health/ready": OPEN,
    "GET /metrics": OPEN,
    "POST /v1/chat/completions": KEY,
    "POST /v1/completions": KEY,
    "POST /v1/length-predictions": KEY,
    "GET /v1/models": KEY,
    "GET /v1/models/{model}": KEY,
    "GET /v1/usage": KEY,
    "GET /v1/requests": KEY,
    "GET /v1/requests/{request_id}": KEY,
    "GET /v1/files": KEY,
    "POST /v1/files": KEY,
    "GET /v1/files/{file_id}": KEY,
    "DELETE /v1/files/{file_id}": KEY,
    "GET /v1/files/{file_id}/content": KEY,
    "GET /v1/batches": KEY,
    "POST /v1/batches": KEY,
    "GET /v1/batches/{batch_id}": KEY,
    "POST /v1/batches/{batch_id}/cancel": KEY,
    "GET /admin/tenants": "tenants",
    "POST /admin/tenants": "tenants",
    "GET /admin/tenants/{tenant_id}": "tenants",
    "PATCH /admin/tenants/{tenant_id}": "tenants",
    "DELETE /admin/tenants/{tenant_id}": "tenants",
    "GET /admin/tenants/{tenant_id}/apps": "tenants",
    "POST /admin/tenants/{tenant_id}/apps": "tenants",
    "DELETE /admin/tenants/{tenant_id}/samples": "tenants",
    "DELETE /admin/tenants/{tenant_id}/files": "tenants",
    "GET /admin/apps": "tenants",
    "PATCH /admin/apps/{app_id}": "tenants",
    "DELETE /admin/apps/{app_id}": "tenants",
    "GET /admin/apps/{app_id}/keys": "tenants",
    "POST /admin/apps/{app_id}/keys": "tenants",
    "GET /admin/keys/{key_id}": "tenants",
    "PATCH /admin/keys/{key_id}": "tenants",
    "DELETE /admin/keys/{key_id}": "tenants",
    "POST /admin/keys/{key_id}/rotate": "tenants",
    "GET /admin/batches": "tenants",
    "GET /admin/usage": "tenants",
    "GET /admin/limits": "tenants",
    "PUT /admin/limits": "tenants",
    "DELETE /admin/limits/{limit_id}": "tenants",
    "GET /admin/prices": "tenants",
    "POST /admin/prices": "tenants",
    "DELETE /admin/prices/{price_id}": "tenants",
    "GET /admin/predictors": "predictors",
    "POST /admin/predictors": "predictors",
    "POST /admin/predictors/rollback": "predictors",
    "POST /admin/predictors/import": "predictors",
    "POST /admin/predictors/samples": "predictors",
    "GET /admin/predictors/{predictor_id}": "predictors",
    "POST /admin/predictors/{predictor_id}/activate": "predictors",
    "GET /admin/predictors/{predictor_id}/export": "predictors",
    "GET /admin/predictors/{predictor_id}/compare/{other_id}": "predictors",
    "GET /admin/training-runs": "predictors",
    "GET /admin/training-runs/{run_id}": "predictors",
    "POST /admin/training-runs/{run_id}/cancel": "predictors",
    "GET /admin/training-schedule": "predictors",
    "PUT /admin/training-schedule": "predictors",
    "GET /admin/drift": "predictors",
    "GET /admin/policy": "engine",
    "PUT /admin/policy": "engine",
    "GET /admin/engine": "engine",
    "POST /admin/engine/pause": "engine",
    "POST /admin/engine/drain": "engine",
    "POST /admin/engine/resume": "engine",
    "GET /admin/queue": "engine",
    "GET /admin/requests": "tenants",
    "GET /admin/requests/{request_id}": "engine",
    "POST /admin/requests/{request_id}/cancel": "engine",
    "GET /admin/audit": READ,
    "GET /admin/scoped-keys": ADMIN,
    "POST /admin/scoped-keys": ADMIN,
    "DELETE /admin/scoped-keys/{key_id}": ADMIN,
}
SCOPES = ("read", "tenants", "predictors", "engine")
ROLES = ("none", "unknown", "key", "admin", *SCOPES)


class Callers(NamedTuple):
    """A client of the gateway, and the secrets of every role."""

    client: httpx.AsyncClient
    secrets: dict[str, str]
    other: str  # the API key of another tenant

    async def call(self, role: str, method: str, path: str, **given: Any) -> httpx.Response:
        secret = self.secrets.get(role, role)
        headers = {} if role == "none" else {"authorization": f"Bearer {secret}"}
        return await self.client.request(method, path, headers=headers, **given)


@pytest.fixture(scope="module")
async def callers(served: Any) -> AsyncIterator[Callers]:
    _, mine = await served.tenant("isolated")
    _, other = await served.tenant("isolated from it")
    secrets = {"unknown": "sk-lmaas-of-no-one", "key": mine}
    async with served.admin() as admin:
        secrets["admin"] = admin.headers["authorization"].removeprefix("Bearer ")
        for scope in SCOPES:
            body = {"name": f"isolation {scope}", "scopes": [scope]}
            made = await admin.post("/admin/scoped-keys", json=body)
            secrets[scope] = made.raise_for_status().json()["secret"]
    async with served.stranger() as client:
        yield Callers(client, secrets, other)


def status(role: str, method: str, wanted: str) -> int | None:
    """The status by which the guard refuses a role; None if it admits it."""
    if wanted == OPEN:
        return None
    if wanted == KEY:
        return None if role == "key" else 401
    if role in {"none", "unknown", "key"}:
        return 401
    reads = method == "GET" and role == "read" and wanted != ADMIN
    return None if role in {"admin", wanted} or reads else 403


async def test_every_route_has_a_line(served: Any) -> None:
    async with served.stranger() as client:
        paths = (await client.get("/schema/openapi.json")).json()["paths"]
    methods = [(path, method.upper()) for path, item in paths.items() for method in item]
    documented = {f"{method} {path}" for path, method in methods if method != "HEAD"}
    assert documented == ROUTES.keys()


async def test_each_role_is_admitted_where_its_line_says_and_nowhere_else(callers: Callers) -> None:
    """The calls name a query parameter that no route has: one that is admitted changes nothing."""
    wrong = []
    for route, wanted in ROUTES.items():
        method, path = route.split()
        if wanted == OPEN:
            continue
        for role in ROLES:
            refused = status(role, method, wanted)
            if refused is None and wanted == KEY and method != "GET":
                continue  # below, with ids
            url = "/".join(
                str(new_id()) if part.startswith("{") else part for part in path.split("/")
            )
            answer = await callers.call(role, method, f"{url}?not_a_parameter=1")
            expected = {refused} if refused else {400} if wanted != KEY else {200, 400, 404}
            if answer.status_code not in expected:
                wrong.append((route, role, answer.status_code, expected))
    assert wrong == []


async def test_another_tenants_file_batch_and_request_are_as_unknown_as_none(
    callers: Callers, served: Any
) -> None:
    owner = served.client(callers.other)
    line = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": (await owner.models.list()).data[0].id,
            "messages": [{"role": "user", "content": "brave queen"}],
            "max_tokens": 1,
        },
    }
    answer = await owner.chat.completions.create(**line["body"])
    file = await owner.files.create(file=("l", json.dumps(line).encode()), purpose="batch")
    batch = await owner.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    new = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    unknown = {"file": f"file-{new_id().hex}", "batch": f"batch_{new_id().hex}"}
    seen = []
    for file_id, batch_id, request_id in (
        (file.id, batch.id, answer.id),
        (unknown["file"], unknown["batch"], f"chatcmpl-{new_id().hex}"),
    ):
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", f"/v1/files/{file_id}", {}),
            ("GET", f"/v1/files/{file_id}/content", {}),
            ("DELETE", f"/v1/files/{file_id}", {}),
            ("POST", "/v1/batches", {"json": {**new, "input_file_id": file_id}}),
            ("GET", f"/v1/batches/{batch_id}", {}),
            ("POST", f"/v1/batches/{batch_id}/cancel", {}),
            ("GET", f"/v1/requests/{request_id}", {}),
        ]
        seen.append(
            [await callers.call("key", method, path, **given) for method, path, given in calls]
        )
    for foreign, none in zip(*seen, strict=True):
        assert foreign.status_code == none.status_code == 404
        assert _shape(foreign) == _shape(none)
    assert (await owner.files.retrieve(file.id)).id == file.id
    assert (await owner.batches.retrieve(batch.id)).status != "cancelled"
    for path in ("/v1/files", "/v1/batches", "/v1/requests"):
        assert (await callers.call("key", "GET", path)).json()["data"] == []
    await owner.close()


def _shape(answer: httpx.Response) -> object:
    """All of an error but the id that it repeats."""
    error = answer.json()["error"]
    words = [word for word in error["message"].split() if not any(c.isdigit() for c in word)]
    same = {"content-type", "cache-control", "retry-after", "x-should-retry"}
    headers = {name: value for name, value in answer.headers.items() if name in same}
    return error | {"message": words}, headers
