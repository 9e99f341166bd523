"""`/health`, without an engine."""

from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar
from litestar.di import Provide

from engine.protocol import Starting
from gateway.api.health import HealthController
from gateway.generation.service import GenerationService
from gateway.parts import Parts


@pytest.fixture
async def client(service: GenerationService, parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    provided = {
        "service": Provide(lambda: service, sync_to_thread=False),
        "parts": Provide(lambda: parts, sync_to_thread=False),
    }
    app = Litestar([HealthController], dependencies=provided)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def test_health_answers_as_ready_does(client: httpx.AsyncClient) -> None:
    ready, health = await client.get("/health/ready"), await client.get("/health")
    assert (health.status_code, health.json()) == (ready.status_code, ready.json())
    assert health.status_code == 503
    found = health.json()
    assert (found["status"], found["reason"]) == ("unavailable", "engine: away")
    assert (found["engine"], found["predictor"], found["database"]) == ("away", "away", "connected")


async def test_an_engine_that_starts_says_what_it_does(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    service.scheduler.events[0].engine_starting(Starting("epoch", "reading weights"))
    assert (await client.get("/health")).json()["engine"] == "starting: reading weights"


@pytest.mark.parametrize(
    ("path", "status"), [("/health/live", 200), ("/health/ready", 503), ("/health", 503)]
)
async def test_head_has_the_status_and_no_body(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    response = await client.head(path)
    assert (response.status_code, response.content) == (status, b"")
