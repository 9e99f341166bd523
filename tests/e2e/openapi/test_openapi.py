"""The OpenAPI document is true: schemathesis finds no route that answers otherwise."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PATIENCE_S

HERE = Path(__file__).parent
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
MAX_EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "5")  # of each route and kind
ERROR_BODY = "#/components/schemas/ErrorBody"


@pytest.fixture(scope="module")
async def gateway(start_gateway: Any) -> AsyncIterator[Any]:
    """A gateway of its own: the requests pause it, train, change its policy and revoke its keys."""
    started = await start_gateway("openapi").ready()
    yield started
    assert await started.stop() == 0, started.errors.read_text()


@pytest.fixture(scope="module")
async def document(gateway: Any) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
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
    assert {"type": "integer", "minimum": 1, "maximum": 8} in chat["n"]["anyOf"]
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
