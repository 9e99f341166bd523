"""Every route answers as the OpenAPI document says, and fails at nothing that it is sent."""

import asyncio
import json
import os
import random
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import PATIENCE_S
from tests.e2e.fuzzing import TEXTS, a_value, check_answer

HERE = Path(__file__).parent
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
MAX_EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "5")  # of each route and kind
ERROR_BODY = "#/components/schemas/ErrorBody"


@pytest.fixture(scope="module")
async def gateway(start_gateway: Any, copied_database: Callable[[str], str]) -> AsyncIterator[Any]:
    """A gateway of its own: the requests pause it, train, change its policy and revoke its keys."""
    url = copied_database("every_route")
    started = await start_gateway("every-route", DATABASE_URL=url).ready()
    yield started
    assert await started.stop() == 0, started.errors.read_text()


@pytest.fixture(scope="module")
async def document(gateway: Any) -> dict[str, Any]:
    async with gateway.stranger() as client:
        return dict((await client.get("/schema/openapi.json")).json())


@pytest.mark.parametrize("paths", ["^/(?!admin)", "^/admin"], ids=["model", "admin"])
async def test_no_route_answers_otherwise_than_documented(
    gateway: Any, environment: Any, tmp_path: Path, paths: str
) -> None:
    keys = environment(tmp_path)
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS,
        *("--config-file", HERE / "schemathesis.toml", "run", f"{gateway.url}/schema/openapi.json"),
        *("--include-path-regex", paths, "--phases", "coverage,fuzzing"),
        *("--seed", "1", "--max-examples", MAX_EXAMPLES, "--no-color", "--warnings", "off"),
        *("--generation-database", "none"),
        cwd=tmp_path,
        env={
            **os.environ,
            "API_KEY": keys["LMAAS_API_KEY"],
            "ADMIN_KEY": keys["LMAAS_ADMIN_KEY"],
            "PYTHONPATH": str(HERE),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 4 * PATIENCE_S)
    assert process.returncode == 0, output.decode()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


async def test_every_route_documents_the_errors_that_follow_from_its_form(
    document: dict[str, Any],
) -> None:
    for path, method, operation in operations(document):
        expected = {"400", "408", "431", "500"}
        if not path.startswith("/health"):
            expected.add("503")
        if path.startswith(("/v1", "/admin", "/metrics")):
            expected |= {"401", "429"}
        if path.startswith(("/admin", "/metrics")):
            expected.add("403")
        if "{" in path:
            expected.add("404")
        if "requestBody" in operation:
            expected |= {"413", "415"}
        assert expected <= operation["responses"].keys(), (method, path)


async def test_every_documented_error_has_our_body(document: dict[str, Any]) -> None:
    named = document["components"]["responses"]
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400 or (path.startswith("/health") and status == "503"):
                continue
            name = response["$ref"].removeprefix("#/components/responses/")
            (content,) = named[name]["content"].values()
            assert content["schema"] == {"$ref": ERROR_BODY}


async def test_every_success_has_a_body_that_is_described(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        (success,) = [r for status, r in operation["responses"].items() if int(status) < 400]
        assert success["content"], (method, path)
        for media_type, content in success["content"].items():
            assert content["schema"], (method, path, media_type)


async def test_streams_are_documented_next_to_whole_answers(document: dict[str, Any]) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert content.keys() == {"application/json", "text/event-stream"}
        assert content["application/json"]["schema"]["$ref"].endswith("Completion")


async def test_bodies_are_documented_with_their_bounds(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    chat = schemas["ChatCompletionRequest"]["properties"]
    assert {"type": "integer", "minimum": 1, "maximum": 128} in chat["n"]["anyOf"]
    assert schemas["PolicyRequest"]["additionalProperties"] is False
    assert document["paths"]["/admin/predictors"]["post"]["requestBody"]["required"] is False


async def test_references_have_a_target(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r'#/components/[^\'"]+', str(document))):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


async def test_options_names_all_methods_of_a_path(gateway: Any) -> None:
    async with gateway.admin() as admin:
        response = await admin.options("/admin/tenants")
    assert response.headers["allow"] == "GET, OPTIONS, POST"


BODIES = 12  # per route
NAME = {"name": "fuzzed"}
VALID: dict[str, dict[str, Any]] = {
    "/admin/tenants": {**NAME, "share": 1.0},
    "/admin/tenants/{tenant_id}": {"learning": False, "share": 2.0},
    "/admin/apps/{app_id}": {**NAME, "instruction": ""},
    "/admin/keys/{key_id}": {**NAME, "service_tiers": ["flex"], "min_deadline_s": 1.0},
    "/admin/tenants/{tenant_id}/apps": {**NAME, "instruction": "Copy the text."},
    "/admin/apps/{app_id}/keys": NAME,
    "/admin/scoped-keys": {**NAME, "scopes": ["read"]},
    "/admin/predictors": {"activate": True},
    "/admin/limits": {"level": "node", "kind": "tokens_per_day", "value": "1000000000000"},
    "/admin/policy": {"name": "lmaas", "admission": "own", "max_delay_s": 5.0},
    "/admin/training-schedule": {"every_s": None, "window": 500, "drift": False},
}
RAW: list[bytes] = [
    *(b"", b"\0", b"{", b"[]", b"null", b"\xff\xfe{}", b"\x1f\x8b\x08", b'{"a":' * 2000),
    *(b'{"app": 1}\n' * 3, b"\n" * 5000, b'{"app":"x","input":"\\ud800","tokens":-1}\n'),
    *(b"LMAASPRE" + bytes(range(256)), b'{"name":"\\u0000"}', b'{"name":"x","name":"y"}'),
]
TYPES = ["application/json", "application/x-ndjson", "text/plain", "", "application/octet-stream"]


def a_write(rng: random.Random, path: str) -> tuple[bytes, dict[str, str]]:
    """A body, valid but for a field or none, or bytes; and its headers."""
    headers = {"content-type": "application/json"}
    valid = VALID.get(path)
    if valid is None or rng.random() < 0.3:
        headers["content-type"] = rng.choice(TYPES)
        if rng.random() < 0.2:
            headers["content-encoding"] = rng.choice(["gzip", "br", ""])
        return rng.choice(RAW), headers
    body = dict(valid)
    if rng.random() < 0.9:
        body[rng.choice([*valid, rng.choice(TEXTS)])] = a_value(rng)
    return json.dumps(body).encode(), headers


async def test_no_write_makes_an_admin_route_fail(gateway: Any, document: dict[str, Any]) -> None:
    rng, statuses = random.Random(16), set()
    tenant, _ = await gateway.tenant("fuzzed")
    async with gateway.admin() as admin:
        for path, method, _ in operations(document):
            if not path.startswith("/admin") or method in {"get", "head"}:
                continue
            for _ in range(BODIES):
                deletes = (method, path) == ("delete", "/admin/tenants/{tenant_id}")
                url = path if deletes else path.replace("{tenant_id}", tenant)
                for name in re.findall(r"{\w+}", url):
                    unknown = str(UUID(int=rng.getrandbits(128)))
                    url = url.replace(name, rng.choice([unknown, "0", "%00", "x" * 2000]))
                body, headers = a_write(rng, path)
                answer = await admin.request(method, url, content=body, headers=headers)
                check_answer(answer, (method, url, body, headers))
                statuses.add(answer.status_code)
    assert {200, 201, 400, 404, 409} <= statuses
