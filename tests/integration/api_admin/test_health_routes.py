"""`/health`, without an engine."""

from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from litestar.di import Provide

from engine.protocol import Starting
from gateway.api.health import HealthController
from gateway.errors import HistoryFull
from gateway.generation.request import GenerationRequest, Message
from gateway.generation.service import GenerationService
from gateway.history.writer import HistoryWriter
from gateway.parts import Parts
from gateway.tenancy.caller import Caller


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


async def test_full_history_is_the_reason_and_refuses_requests(
    client: httpx.AsyncClient,
    service: GenerationService,
    history_writer: HistoryWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (await client.get("/health")).json()["history"] == "connected"
    monkeypatch.setattr(history_writer._backlog, "_max_bytes", 0)
    found = (await client.get("/health")).json()
    assert (found["status"], found["reason"]) == ("unavailable", "history: full")
    caller = Caller(
        **dict.fromkeys(("tenant_id", "app_id", "api_key_id"), UUID(int=1)),
        tenant="tenant",
        app="app",
        instruction=None,
    )
    with pytest.raises(HistoryFull) as refused:
        await service.start(
            GenerationRequest(caller=caller, messages=(Message("user", "brave king"),))
        )
    assert refused.value.retry_after_s == 10.0


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
