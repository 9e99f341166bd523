"""`GET /metrics`, with no engine."""

from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from litestar.di import Provide
from prometheus_client.parser import text_string_to_metric_families

from gateway.api.errors import exception_handlers
from gateway.api.metrics import MetricsController
from gateway.database.errors import Sessions
from gateway.generation.service import GenerationService
from gateway.parts import Parts
from gateway.prediction.messages import SOURCE_LABELS, PredictionRequest
from gateway.tenancy.admin_key import AdminKey
from gateway.tenancy.caller import Caller
from gateway.tenancy.scopes import AdminAccess, Scope, ScopedKeys
from tests.integration.api_admin.conftest import ADMIN_KEY

CALLER = Caller(
    tenant_id=UUID(int=1),
    tenant='ac"me',
    app_id=UUID(int=2),
    app="app",
    api_key_id=UUID(int=3),
    instruction=None,
)
QUESTION = PredictionRequest(
    tenant=CALLER.tenant_id,
    app=CALLER.app_id,
    end_user=None,
    instruction="Copy the text.",
    user_input="one two three",
    user_input_tokens=3,
    prompt_tokens=8,
    max_tokens=100,
    temperature=0.0,
    top_p=1.0,
)


@pytest.fixture
async def scraper(
    service: GenerationService, sessions: Sessions, parts: Parts
) -> AsyncIterator[httpx.AsyncClient]:
    admission = AdminAccess(AdminKey(ADMIN_KEY), ScopedKeys(sessions))
    application = Litestar(
        [MetricsController],
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "admission": Provide(lambda: admission, sync_to_thread=False),
            "parts": Provide(lambda: parts, sync_to_thread=False),
        },
        exception_handlers=exception_handlers,
    )
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def samples(
    scraper: httpx.AsyncClient, secret: str | None = None
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    response = await scraper.get("/metrics", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_every_series_is_prefixed_and_current(scraper: httpx.AsyncClient) -> None:
    found = await samples(scraper)
    assert all(name.startswith("lmaas_") for name, _ in found)
    assert found["lmaas_waiting_requests", frozenset()] == 0
    assert found["lmaas_engine_connected", frozenset()] == 0
    assert found["lmaas_part_up", frozenset({("part", "database")})] == 1
    assert found["lmaas_part_up", frozenset({("part", "engine")})] == 0
    assert found["lmaas_policy", frozenset({("name", "lmaas")})] == 1
    assert found["lmaas_policy_fallback", frozenset({("reason", "short_queue")})] == 1


async def test_starts_are_counted_by_the_source_of_their_prediction(
    scraper: httpx.AsyncClient, service: GenerationService
) -> None:
    def series(source: str) -> tuple[str, frozenset[tuple[str, str]]]:
        return "lmaas_predictions_total", frozenset({("source", source)})

    before = await samples(scraper)
    assert [before[series(source)] for source in SOURCE_LABELS] == [0] * len(SOURCE_LABELS)
    service.scheduler.sources.counts.update({"model+embeddings": 3, "app": 2, "prior": 1})
    after = await samples(scraper)
    assert {source: after[series(source)] for source in SOURCE_LABELS} == {
        "model": 0,
        "model+embeddings": 3,
        "app": 2,
        "tenant": 0,
        "global": 0,
        "prior": 1,
    }


async def test_series_with_tenant_names_need_a_read_key(
    scraper: httpx.AsyncClient, service: GenerationService, sessions: Sessions
) -> None:
    service.scheduler.metrics.tenants.ended(CALLER, 10, 5, 8)
    key = await ScopedKeys(sessions).create("prometheus", [Scope.READ], by="olga")
    series = ("lmaas_tenant_requests_total", frozenset({("tenant", 'ac"me')}))
    assert series not in await samples(scraper)
    for secret in (ADMIN_KEY, key.secret):
        assert (await samples(scraper, secret))[series] == 1


@pytest.mark.parametrize("authorization", ["Bearer wrong-key", "Basic YTpi", ""])
async def test_wrong_key_is_refused(scraper: httpx.AsyncClient, authorization: str) -> None:
    response = await scraper.get("/metrics", headers={"authorization": authorization})
    assert response.status_code == 401
