"""Every change by the admin API leaves one entry of the audit trail, and a refused one none."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import httpx
import pytest
from msgspec import Struct
from sqlalchemy import Executable, delete, func, insert, select, update

from gateway.database.audited_session import UnauditedChangeError
from gateway.database.errors import Sessions
from gateway.history.writer import HistoryWriter
from gateway.prediction.lifecycle.run_log import RunLog
from models import ApiKey, App, AuditEntry, Tenant
from tests.conftest import Builder
from tests.integration.api_admin.conftest import Enqueue
from tests.integration.api_admin.learning.test_predictor_routes import a_version, an_artefact
from tests.integration.api_admin.test_every_route import ROUTES, filled

Route: TypeAlias = tuple[str, str]
LIMIT = {"level": "node", "kind": "requests_per_minute", "value": "5"}
PRICE = {"model": "m", "input": "1", "output": "2"}
MUTATING = sorted(route for route in ROUTES if route[0] != "GET")
IMPORT = ("POST", "/admin/predictors/samples")  # checked where it is tested: it embeds texts


class Scene(Struct):
    """What a call needs."""

    client: httpx.AsyncClient
    build: Builder
    sessions: Sessions
    history: HistoryWriter
    enqueue: Enqueue

    async def entries(self) -> int:
        """The number of entries in the trail."""
        await self.history.flush()
        async with self.sessions() as session:
            return await session.scalar(select(func.count()).select_from(AuditEntry)) or 0

    async def newest(self) -> AuditEntry:
        async with self.sessions() as session:
            newest = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(1)
            return (await session.scalars(newest)).one()


Call: TypeAlias = tuple[dict[str, UUID | str], dict[str, Any]]  # ids of the path, what is sent
Prepare: TypeAlias = Callable[[Scene], Awaitable[Call]]


@pytest.fixture
def scene(
    client: httpx.AsyncClient,
    build: Builder,
    sessions: Sessions,
    history_writer: HistoryWriter,
    enqueue: Enqueue,
) -> Scene:
    return Scene(client, build, sessions, history_writer, enqueue)


def sending(**given: Any) -> Prepare:
    async def prepare(_: Scene) -> Call:
        return {}, given

    return prepare


def of_tenant(**given: Any) -> Prepare:
    async def prepare(scene: Scene) -> Call:
        return {"tenant_id": (await scene.build.tenant()).id}, given

    return prepare


def of_app(**given: Any) -> Prepare:
    async def prepare(scene: Scene) -> Call:
        return {"app_id": (await scene.build.app()).id}, given

    return prepare


def of_key(**given: Any) -> Prepare:
    async def prepare(scene: Scene) -> Call:
        return {"key_id": (await scene.build.key()).key.id}, given

    return prepare


def of_made(method: str, path: str, parameter: str, **given: Any) -> Prepare:
    async def prepare(scene: Scene) -> Call:
        made = await scene.client.request(method, path, json=given)
        return {parameter: made.raise_for_status().json()["id"]}, {}

    return prepare


async def a_stored_version(scene: Scene) -> Call:
    return {"predictor_id": (await a_version(scene.sessions)).id}, {}


async def two_active_versions(scene: Scene) -> Call:
    for version in (await a_version(scene.sessions), await a_version(scene.sessions)):
        await scene.client.post(f"/admin/predictors/{version.id}/activate")
    return {}, {}


async def a_queued_run(scene: Scene) -> Call:
    return {"run_id": (await RunLog(scene.sessions).queue("m", by="olga", activate=True)).id}, {}


async def a_paused_engine(scene: Scene) -> Call:
    await scene.client.post("/admin/engine/pause")
    return {}, {}


async def a_waiting_request(scene: Scene) -> Call:
    return {"request_id": scene.enqueue(deadline_s=1e9).id}, {}


CALLS: dict[Route, Prepare] = {
    ("POST", "/admin/tenants"): sending(json={"name": "acme"}),
    ("PATCH", "/admin/tenants/{tenant_id}"): of_tenant(json={"name": "x", "share": 2}),
    ("DELETE", "/admin/tenants/{tenant_id}"): of_tenant(),
    ("DELETE", "/admin/tenants/{tenant_id}/samples"): of_tenant(),
    ("DELETE", "/admin/tenants/{tenant_id}/files"): of_tenant(),
    ("POST", "/admin/tenants/{tenant_id}/apps"): of_tenant(json={"name": "x"}),
    ("PATCH", "/admin/apps/{app_id}"): of_app(json={"name": "x", "instruction": "Be brief."}),
    ("DELETE", "/admin/apps/{app_id}"): of_app(),
    ("POST", "/admin/apps/{app_id}/keys"): of_app(json={"name": "x"}),
    ("PATCH", "/admin/keys/{key_id}"): of_key(json={"name": "x", "min_deadline_s": 2}),
    ("DELETE", "/admin/keys/{key_id}"): of_key(),
    ("POST", "/admin/keys/{key_id}/rotate"): of_key(json={"name": "x"}),
    ("POST", "/admin/scoped-keys"): sending(json={"name": "x", "scopes": ["read"]}),
    ("DELETE", "/admin/scoped-keys/{key_id}"): of_made(
        "POST", "/admin/scoped-keys", "key_id", name="x", scopes=["read"]
    ),
    ("POST", "/admin/predictors"): sending(json={"activate": False}),
    ("POST", "/admin/predictors/import"): sending(content=an_artefact()),
    ("POST", "/admin/predictors/rollback"): two_active_versions,
    ("POST", "/admin/predictors/{predictor_id}/activate"): a_stored_version,
    ("POST", "/admin/training-runs/{run_id}/cancel"): a_queued_run,
    ("PUT", "/admin/training-schedule"): sending(json={"drift": False}),
    ("PUT", "/admin/policy"): sending(json={"name": "fcfs", "max_delay_s": 7}),
    ("POST", "/admin/engine/pause"): sending(),
    ("POST", "/admin/engine/drain"): sending(),
    ("POST", "/admin/engine/resume"): a_paused_engine,
    ("POST", "/admin/requests/{request_id}/cancel"): a_waiting_request,
    ("PUT", "/admin/limits"): sending(json=LIMIT),
    ("DELETE", "/admin/limits/{limit_id}"): of_made("PUT", "/admin/limits", "limit_id", **LIMIT),
    ("POST", "/admin/prices"): sending(json=PRICE),
    ("DELETE", "/admin/prices/{price_id}"): of_made("POST", "/admin/prices", "price_id", **PRICE),
}


@pytest.mark.parametrize("route", sorted({*MUTATING} - {IMPORT}), ids=" ".join)
async def test_change_leaves_one_entry_with_its_actor_and_without_secrets(
    scene: Scene, route: Route
) -> None:
    method, path = route
    ids, sent = await CALLS[route](scene)
    before = await scene.entries()
    answer = await scene.client.request(method, path.format(**ids), **sent)
    assert answer.is_success, answer.text
    assert await scene.entries() == before + 1
    entry = await scene.newest()
    assert entry.actor == "admin"
    assert entry.subject
    assert entry.action.partition(".")[2]
    secret = answer.json().get("secret")
    assert secret is None or secret not in f"{entry.before} {entry.after}"


async def test_refused_change_leaves_no_entry(scene: Scene) -> None:
    made = await scene.client.post("/admin/scoped-keys", json={"name": "x", "scopes": ["read"]})
    reads = {"authorization": f"Bearer {made.json()['secret']}"}
    before = await scene.entries()
    for method, path in MUTATING:
        forbidden = await scene.client.request(method, filled(path), headers=reads)
        assert forbidden.status_code == 403
        if "/engine/" not in path:  # commands without anything to refuse
            wrong = await scene.client.request(method, filled(path), json={"surprise": 1})
            assert wrong.is_client_error, path
    assert await scene.entries() == before


async def test_change_that_changes_nothing_leaves_no_entry(scene: Scene) -> None:
    tenant = await scene.build.tenant("acme")
    key = await scene.build.key()
    await scene.client.delete(f"/admin/keys/{key.key.id}")
    before = await scene.entries()
    await scene.client.patch(f"/admin/tenants/{tenant.id}", json={"name": "acme", "share": 1})
    await scene.client.delete(f"/admin/keys/{key.key.id}")
    await scene.client.post("/admin/engine/resume")
    assert await scene.entries() == before


@pytest.mark.parametrize(
    "change",
    [
        insert(Tenant).values(name="other"),
        update(App).values(name="other"),
        delete(ApiKey),
    ],
    ids=["insert", "update", "delete"],
)
async def test_database_session_commits_no_statement_without_an_entry(
    sessions: Sessions, build: Builder, change: Executable
) -> None:
    key = await build.key()
    with pytest.raises(UnauditedChangeError):
        async with sessions.begin() as session:
            await session.execute(change)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Tenant)) == 1
        assert (await session.get_one(App, key.key.app_id)).name != "other"
        assert await session.get(ApiKey, key.key.id) is not None


async def test_database_session_commits_no_object_without_an_entry(
    sessions: Sessions, build: Builder
) -> None:
    tenant = await build.tenant("acme")
    with pytest.raises(UnauditedChangeError, match="tenants"):
        async with sessions.begin() as session:
            session.add(Tenant(name="other"))
    with pytest.raises(UnauditedChangeError, match="tenants"):
        async with sessions.begin() as session:
            (await session.get_one(Tenant, tenant.id)).share = 2.0
    async with sessions() as session:
        (kept,) = await session.scalars(select(Tenant))
    assert (kept.name, kept.share) == ("acme", 1.0)
