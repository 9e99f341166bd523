"""Usage and prices over HTTP, and what a request used."""

import csv
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from litestar import Litestar, Router
from litestar.di import Provide

from gateway.api.admin.actor import provide_actor
from gateway.api.admin.usage.prices import PricesController
from gateway.api.admin.usage.requests import FinishedRequestsController
from gateway.api.admin.usage.usage import UsageController
from gateway.api.body import BodyLimits, bounded_request
from gateway.api.envelope import provide_cursor
from gateway.api.errors import exception_handlers
from gateway.api.guards import api_key_guard, provide_caller
from gateway.api.openai.usage import OwnUsageController
from gateway.api.query import check_query
from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.generation.service import GenerationService
from gateway.generation.text.workers import TextWorkers
from gateway.history.listing import RequestList
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.tenancy.keys import NewKey
from gateway.usage.prices import Prices
from gateway.usage.report import UsageReport
from gateway.usage.request import RequestUsages
from models.base import new_id
from tests.conftest import Builder
from tests.integration.query_count import counted

Client = httpx.AsyncClient
CHAT = {"model": "model", "input": "0.15", "output": "0.6"}


class IdleService(GenerationService):
    """In which nothing waits or runs."""

    def __init__(self) -> None:
        nothing: Any = SimpleNamespace(progress=lambda *_: None)
        self.scheduler = nothing


def given(service: object) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)


@pytest.fixture
async def client(sessions: Sessions, build: Builder) -> AsyncIterator[Client]:
    """The routes with their guards, the admin's without."""

    workers = TextWorkers()

    def admitted(connection: Any, _: Any) -> None:
        connection.state["actor"] = "admin"

    admin = Router(
        "/admin",
        route_handlers=[PricesController, UsageController, FinishedRequestsController],
        before_request=check_query,
        guards=[admitted],
        dependencies={"cursor": Provide(provide_cursor), "actor": Provide(provide_actor)},
    )
    own = Router(
        "/v1",
        route_handlers=[OwnUsageController],
        guards=[api_key_guard(build.authenticator)],
        dependencies={"caller": Provide(provide_caller)},
    )
    app = Litestar(
        [admin, own],
        dependencies={
            name: given(service)
            for name, service in (
                ("prices", Prices(sessions)),
                ("usage", UsageReport(sessions)),
                ("usages", RequestUsages(sessions)),
                ("service", IdleService()),
                ("finished", RequestList(sessions)),
            )
        },
        request_class=bounded_request(BodyLimits, workers),
        exception_handlers=exception_handlers,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with Client(transport=transport, base_url="http://gateway") as opened:
        yield opened
    workers.close()


@pytest.fixture
def record(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> Callable[..., Any]:
    writer = HistoryWriter(sessions, tmp_path)

    async def insert(key: NewKey, tenant_id: UUID, **given: Any) -> UUID:
        new = a_record(
            **{"id": new_id(), "arrived_at": datetime.now(UTC), **given},
            tenant_id=tenant_id,
            app_id=key.key.app_id,
            api_key_id=key.key.id,
        )
        writer.record(new)
        await writer.flush()
        return new.id

    return insert


def bearer(key: NewKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.secret}"}


async def test_cost_is_exact_to_the_last_decimal(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant("acme")
    key = await build.key(await build.app(tenant))
    prices = {"model": "model", "input": "0.1", "output": "0.3", "cached_input": "0.0000000003"}
    assert (await client.post("/admin/prices", json=prices)).status_code == 201
    for _ in range(3):
        await record(key, tenant.id, prompt_tokens=3, cached_tokens=1, generation_tokens=1)
    answer = (await client.get("/admin/usage?group_by=tenant&tenant=acme")).json()
    (usage,) = answer["data"]
    assert (usage["tenant"], usage["requests"], usage["unpriced"]) == ("acme", 3, 0)
    assert usage["cost"] == "0.0000015000000009"


async def test_price_of_the_arrival_stays_when_prices_change(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    key = await build.key(await build.app(tenant))
    await record(key, tenant.id, prompt_tokens=1, generation_tokens=10**6)  # none is set yet
    for paid in ("1", "2"):
        await client.post("/admin/prices", json={**CHAT, "input": "0", "output": paid})
        await record(key, tenant.id, prompt_tokens=1, generation_tokens=10**6)
    (usage,) = (await client.get("/admin/usage")).json()["data"]
    assert (usage["requests"], usage["unpriced"], usage["cost"]) == (3, 1, "3")
    first, second = (await client.get("/admin/prices")).json()["data"]
    assert first["valid_until"] == second["valid_from"]
    await client.delete(f"/admin/prices/{second['id']}")
    await record(key, tenant.id, prompt_tokens=1, generation_tokens=10**6)
    (usage,) = (await client.get("/admin/usage")).json()["data"]
    assert (usage["unpriced"], usage["cost"]) == (2, "3")


async def test_tier_has_its_own_price_and_others_the_models(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    key = await build.key(await build.app(tenant))
    await client.post("/admin/prices", json={**CHAT, "input": "0", "output": "2"})
    await client.post(
        "/admin/prices", json={**CHAT, "input": "0", "output": "1", "service_tier": "batch"}
    )
    for tier in ("default", "batch"):
        await record(key, tenant.id, service_tier=tier, generation_tokens=10**6)
    data = (await client.get("/admin/usage?group_by=tier")).json()["data"]
    assert [(each["tier"], each["cost"]) for each in data] == [("batch", "1"), ("default", "2")]


async def test_future_price_waits_and_can_be_deleted_and_past_ones_are_refused(
    client: Client,
) -> None:
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).isoformat()
    future = (await client.post("/admin/prices", json={**CHAT, "valid_from": tomorrow})).json()
    past = {**CHAT, "valid_from": (now - timedelta(days=1)).isoformat()}
    error = (await client.post("/admin/prices", json=past)).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "valid_from")
    assert (await client.post("/admin/prices", json=CHAT)).status_code == 409
    until = {**CHAT, "valid_until": tomorrow}
    assert (await client.post("/admin/prices", json=until)).status_code == 201
    await client.delete(f"/admin/prices/{future['id']}")
    (left,) = (await client.get("/admin/prices?model=model")).json()["data"]
    assert datetime.fromisoformat(left["valid_until"]) == datetime.fromisoformat(tomorrow)


@pytest.mark.parametrize(
    "paid", ["-1", "1e3", "NaN", "0.12345678901", "1234567890", "", " 1", "1٣"]
)
async def test_price_that_is_no_plain_decimal_is_refused(client: Client, paid: str) -> None:
    error = (await client.post("/admin/prices", json={**CHAT, "output": paid})).json()["error"]
    assert error["param"] == "output"


async def test_price_as_a_number_is_refused(client: Client) -> None:
    assert (await client.post("/admin/prices", json={**CHAT, "output": 0.6})).status_code == 400


async def test_csv_comes_by_accept_or_format_and_quotes(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    key = await build.key(await build.app(tenant))
    await record(key, tenant.id, end_user='a, "b"\nc')
    query = "/admin/usage?group_by=user"
    accepted = await client.get(query, headers={"accept": "text/csv"})
    asked = await client.get(f"{query}&format=csv")
    assert accepted.text == asked.text
    assert accepted.headers["content-type"].startswith("text/csv")
    assert accepted.headers["x-lmaas-has-more"] == "false"
    (line,) = csv.DictReader(accepted.text.splitlines(keepends=True))
    assert (line["user"], line["requests"], line["cost"]) == ('a, "b"\nc', "1", "0")
    assert (await client.get(f"{query}&format=json")).json()["object"] == "list"


async def test_no_cell_of_the_csv_begins_a_formula(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant("@acme")
    key = await build.key(await build.app(tenant))
    await record(key, tenant.id, end_user="=1+1")
    answer = await client.get("/admin/usage?group_by=tenant,user&format=csv")
    (line,) = csv.DictReader(answer.text.splitlines(keepends=True))
    assert (line["tenant"], line["user"]) == ("'@acme", "'=1+1")


async def test_key_sees_its_own_usage_only(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    app = await build.app(tenant)
    mine, sibling = await build.key(app), await build.key(app)
    await record(mine, tenant.id)
    await record(sibling, tenant.id)
    (usage,) = (await client.get("/v1/usage", headers=bearer(mine))).json()["data"]
    assert usage["requests"] == 1
    refused = await client.get("/v1/usage?group_by=tenant", headers=bearer(mine))
    assert refused.json()["error"]["param"] == "group_by"
    refused = await client.get("/v1/usage?tenant=x", headers=bearer(mine))
    assert refused.json()["error"]["code"] == "unsupported_parameter"


async def test_key_named_like_the_id_of_another_sees_nothing_of_it(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    theirs = await build.key(await build.app(tenant))
    await record(theirs, tenant.id)
    mine = await build.key(name=str(theirs.key.id))
    (usage,) = (await client.get("/v1/usage", headers=bearer(mine))).json()["data"]
    assert usage["requests"] == 0


async def test_request_shows_the_usage_and_cost_of_all_its_choices(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    key = await build.key(await build.app(tenant))
    await client.post("/admin/prices", json={**CHAT, "input": "1", "output": "10"})
    at = datetime.now(UTC)
    first = await record(key, tenant.id, arrived_at=at, prompt_tokens=5, generation_tokens=3)
    await record(
        key, tenant.id, arrived_at=at, first_id=first, prompt_tokens=5, generation_tokens=4
    )
    answer = await client.get(f"/v1/requests/chatcmpl-{first.hex}", headers=bearer(key))
    shown = answer.json()
    assert (shown["prompt_tokens"], shown["generation_tokens"]) == (5, 7)
    assert (shown["cost"], shown["outcome"], shown["cached_tokens"]) == ("0.000075", "stop", None)


async def test_foreign_request_is_as_unknown_as_one_that_never_was(
    client: Client, build: Builder, record: Callable[..., Any], database: Database
) -> None:
    tenant = await build.tenant()
    theirs = await record(await build.key(await build.app(tenant)), tenant.id)
    mine = await build.key()
    await client.get("/v1/usage", headers=bearer(mine))  # its key is cached now
    seen = []
    for request_id in (theirs, new_id(), uuid4()):
        with counted(database) as queries:
            answer = await client.get(f"/v1/requests/{request_id}", headers=bearer(mine))
        text = answer.text.replace(str(request_id), "ID")
        seen.append((answer.status_code, text, len(queries)))
    assert seen[0][0] == 404
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][2] == 1


async def test_finished_requests_are_listed_and_filtered_by_names(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant("acme")
    key = await build.key(await build.app(tenant, name="chat"), name="first")
    other = await build.key(await build.app(await build.tenant("other"), name="chat"))
    ids = [
        str(await record(key, tenant.id, end_user="ursula", finish_reason=reason))
        for reason in ("stop", "error", "stop")
    ]
    await record(other, UUID(int=1))
    query = {"tenant": "acme", "app": "chat", "key": "first", "user": "ursula", "outcome": "stop"}
    page = (await client.get("/admin/requests", params=query)).json()
    assert (page["object"], page["has_more"], page["next_after"]) == ("list", False, None)
    assert [each["id"] for each in page["data"]] == [ids[2], ids[0]]
    newest = page["data"][0]
    assert (newest["tenant"], newest["app"], newest["key"]) == ("acme", "chat", "first")
    assert not {"embedding", "features", "instruction_hash"} & newest.keys()

    page = (await client.get("/admin/requests?limit=3&app=chat")).json()
    assert page["has_more"]
    rest = (await client.get(f"/admin/requests?limit=3&app=chat&after={page['next_after']}")).json()
    assert [each["id"] for each in rest["data"]] == ids[:1]


@pytest.mark.parametrize(
    ("query", "tokens"),
    [
        ("least_tokens=5", [7, 5]),
        ("most_tokens=5", [5, 3]),
        ("least_tokens=4&most_tokens=6", [5]),
        ("least_wait_s=0.5", [7, 5]),
        ("most_wait_s=0.5&limit=1", [5]),
        ("least_wait_s=0.4&least_tokens=6", [7]),
    ],
)
async def test_finished_requests_are_filtered_by_length_and_wait(
    client: Client, build: Builder, record: Callable[..., Any], query: str, tokens: list[int]
) -> None:
    tenant = await build.tenant()
    key = await build.key(await build.app(tenant))
    for length, queued_s in ((3, 0.25), (5, 0.5), (7, 1.0)):
        await record(key, tenant.id, generation_tokens=length, queued_s=queued_s)
    page = (await client.get(f"/admin/requests?{query}")).json()
    assert [each["generation_tokens"] for each in page["data"]] == tokens
    assert page["has_more"] == ("limit=1" in query)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("least_tokens=-1", "least_tokens"),
        ("most_tokens=2147483648", "most_tokens"),
        ("least_tokens=1.5", "least_tokens"),
        ("least_wait_s=-1", "least_wait_s"),
        ("most_wait_s=1e999", "most_wait_s"),
        ("most_wait_s=long", "most_wait_s"),
    ],
)
async def test_bound_that_is_none_is_refused(client: Client, query: str, param: str) -> None:
    answer = await client.get(f"/admin/requests?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_key_lists_its_own_requests_only(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    app = await build.app(tenant)
    mine, other = await build.key(app), await build.key(app)
    request = str(await record(mine, tenant.id, end_user="ursula"))
    await record(other, tenant.id, end_user="ursula")
    for query in ("", "?user=ursula", "?limit=1"):
        page = (await client.get(f"/v1/requests{query}", headers=bearer(mine))).json()
        assert [each["id"] for each in page["data"]] == [request]
        assert not page["has_more"]
        assert not {"tenant", "tenant_id", "key_id", "policy"} & page["data"][0].keys()
    refused = await client.get(f"/v1/requests?key={other.key.id}", headers=bearer(mine))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "key")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("outcome=stopped", "outcome"),
        ("since=yesterday", "since"),
        ("until=2026-01-01", "until"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("after=there", "after"),
        ("user=%00", "user"),
        ("offset=1", "offset"),
    ],
)
async def test_filter_that_is_none_is_refused(
    client: Client, build: Builder, query: str, param: str
) -> None:
    key = await build.key()
    for path, headers in (("/admin/requests", {}), ("/v1/requests", bearer(key))):
        answer = await client.get(f"{path}?{query}", headers=headers)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_times_without_a_zone_are_of_utc(
    client: Client, build: Builder, record: Callable[..., Any]
) -> None:
    tenant = await build.tenant()
    key = await build.key(await build.app(tenant))
    await record(key, tenant.id, arrived_at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    for query, number in (
        ("since=2026-01-01T12:00:00", 1),
        ("since=2026-01-01T12:00:01", 0),
        ("until=2026-01-01T12:00:00Z", 0),
        ("until=2026-01-01T11:00:01-01:00", 1),
        ("since=0001-01-01T00:00:00%2B14:00&until=9999-12-31T23:59:59-14:00", 1),
    ):
        page = (await client.get(f"/admin/requests?{query}")).json()
        assert len(page["data"]) == number, (query, page)
