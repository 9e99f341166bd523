"""Deleted tenants and apps: what goes at once, what is erased, and what stays."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, text

from gateway.database.errors import Sessions
from gateway.deletion import portions
from gateway.deletion.deletions import Deletions
from gateway.deletion.sweeper import ErasureSweeper
from gateway.errors import Conflict, NotFound, Unauthenticated
from gateway.files.bounds import FileBounds
from gateway.files.store import DELETED, FileOwner, FileStore
from gateway.files.upload import Uploads
from gateway.history.audit import AuditTrail, note
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.jobs.batches.batches import Batches, NewBatch
from gateway.jobs.batches.limits import BatchLimits
from gateway.limits.limit import Level
from gateway.prediction.features.features import FEATURE_VERSION
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.caller import Caller
from gateway.tenancy.changes import TenancyChanges
from gateway.tenancy.demo import TENANT, ensure_demo
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.paging import Cursor
from gateway.tenancy.tenants import Tenants
from gateway.usage.limits.limits import Limits, NewLimit
from gateway.usage.report import Group, UsageFilter, UsageReport
from models import (
    App,
    Batch,
    BatchLine,
    Erasure,
    Instruction,
    RequestRecord,
    StoredFile,
    StoredLimit,
    Tenant,
    TrainingRun,
    UsageDay,
)
from models.base import new_id
from tests.conftest import PATIENCE_S, Builder
from tests.integration.damage import damaged

ARecord = Callable[..., Record]
NEW = NewBatch(input_file_id=UUID(int=9), endpoint="/v1/chat/completions", window="24h")

WAITS = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


@pytest.fixture
def deletions(sessions: Sessions) -> Deletions:
    return Deletions(sessions)


@pytest.fixture
def sweeper(sessions: Sessions) -> ErasureSweeper:
    return ErasureSweeper(sessions, lambda: None)


@pytest.fixture
def batches(sessions: Sessions) -> Batches:
    return Batches(sessions, "model", BatchLimits(), lambda: None)


async def written(sessions: Sessions, folder: Path, *records: Record) -> None:
    writer = HistoryWriter(sessions, folder)
    for record in records:
        writer.record(record)
    await writer.flush()


async def counted(sessions: Sessions, table: type[Any], *conditions: Any) -> int:
    async with sessions() as session:
        statement = select(func.count()).select_from(table).where(*conditions)
        return (await session.execute(statement)).scalar_one()


def caller_of(tenant: Tenant, app: App) -> Caller:
    return Caller(
        tenant_id=tenant.id,
        tenant=tenant.name,
        app_id=app.id,
        app=app.name,
        api_key_id=UUID(int=3),
        instruction=None,
    )


def a_limit(level: Level, owner: str) -> NewLimit:
    return NewLimit(level=level, owner=owner, kind="tokens_per_day", value="1000", effect="hard")


async def usage_of(sessions: Sessions, tenant: str) -> list[tuple[Any, ...]]:
    today = datetime.now(UTC).date()
    wanted = UsageFilter(
        since=today - timedelta(days=2), until=today + timedelta(days=2), tenant=tenant
    )
    groups = [Group.TENANT, Group.APP, Group.KEY]
    page = await UsageReport(sessions).read(wanted, groups, limit=10)
    return [(u.tenant, u.app, u.key, u.requests, u.generation_tokens, u.cost) for u in page.items]


async def test_deleted_tenant_is_unknown_and_its_name_free_at_once(
    sessions: Sessions, build: Builder, deletions: Deletions
) -> None:
    tenant = await build.tenant("acme")
    app = await build.app(tenant, name="chat", instruction="Be polite.")
    await deletions.delete_tenant(tenant.id, by="olga")
    tenants, apps, keys = Tenants(sessions), Apps(sessions), ApiKeys(sessions, build.authenticator)
    for attempt in (
        tenants.show(tenant.id),
        tenants.change(tenant.id, share=2.0, by="olga"),
        apps.list(tenant.id, Cursor()),
        apps.create(tenant.id, "new", by="admin"),
        apps.change(app.id, name="new", by="olga"),
        keys.list(app.id, Cursor()),
        keys.create(app.id, "new", by="admin"),
        deletions.delete_tenant(tenant.id, by="olga"),
        deletions.delete_app(app.id, by="olga"),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert (await tenants.list(Cursor())).items == []
    assert (await apps.list_all(Cursor())).items == []
    assert (await build.tenant("acme")).id != tenant.id
    async with sessions() as session:
        kept = await session.get_one(App, app.id)
    assert (kept.name, kept.instruction) == ("chat", None)
    entry, _ = await AuditTrail(sessions).list(10, subject=str(tenant.id))
    assert (entry.actor, entry.action, entry.before) == (
        "olga",
        "tenant.deleted",
        {"name": "acme"},
    )


async def test_key_of_a_deleted_owner_is_refused_by_another_gateway_without_waiting(
    sessions: Sessions, build: Builder, postgres_url: str
) -> None:
    apps = [await build.app() for _ in range(2)]
    keys = [await build.key(app) for app in apps]
    other = Authenticator(sessions, key_lookup_s=PATIENCE_S, clock=lambda: 0.0)
    for key in keys:
        await other.authenticate(key.secret)
    noticed = asyncio.Queue[None]()

    async def notice() -> None:
        noticed.put_nowait(None)

    changes = TenancyChanges(
        sessions, postgres_url, (other.follow_changes, notice), poll_s=PATIENCE_S
    )
    changes.start()
    deletions = Deletions(sessions)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await deletions.delete_app(apps[0].id, by="olga")
            await noticed.get()
            with pytest.raises(Unauthenticated):
                await other.authenticate(keys[0].secret)
            assert (await other.authenticate(keys[1].secret)).app_id == apps[1].id
            await deletions.delete_tenant(apps[1].tenant_id, by="olga")
            await noticed.get()
            with pytest.raises(Unauthenticated):
                await other.authenticate(keys[1].secret)
    finally:
        await changes.close()
    other.check()


async def test_without_a_change_no_reaction_is_called(
    sessions: Sessions, build: Builder, postgres_url: str
) -> None:
    tenant = await build.tenant()
    seen: list[None] = []

    async def notice() -> None:
        seen.append(None)

    changes = TenancyChanges(sessions, postgres_url, (notice,))
    await changes.follow()
    assert len(seen) == 0
    await Tenants(sessions, changes.follow).change(tenant.id, name="another", by="olga")
    await changes.follow()
    assert len(seen) == 1


async def test_erased_history_keeps_the_bill_to_the_token_and_nothing_else(
    sessions: Sessions,
    build: Builder,
    deletions: Deletions,
    sweeper: ErasureSweeper,
    a_record: ARecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portions, "ROWS", 2)
    key = await build.key(app := await build.app(await build.tenant("acme"), name="chat"))
    staying = await build.key()
    own: dict[str, Any] = {"tenant_id": app.tenant_id, "app_id": app.id, "api_key_id": key.key.id}
    learned = {
        "feature_version": FEATURE_VERSION,
        "features": b"f",
        "embedding": b"v",
        "end_user": "ursula",
        "embedder": "e",
    }
    other = await build.app(name="other")
    await written(
        sessions,
        tmp_path,
        *(
            a_record(**own, **learned, instruction_hash=b"own", instruction_embedding=b"i")
            for _ in range(5)
        ),
        a_record(
            tenant_id=other.tenant_id,
            app_id=other.id,
            api_key_id=staying.key.id,
            **learned,
            instruction_hash=b"theirs",
            instruction_embedding=b"i",
        ),
    )
    before = await usage_of(sessions, "acme")
    assert before == [("acme", "chat", "a key", 5, 60, "0")]
    await deletions.delete_tenant(app.tenant_id, by="olga")
    assert await sweeper.sweep() == 1
    assert await usage_of(sessions, "acme") == before
    mine = RequestRecord.tenant_id == app.tenant_id
    async with sessions() as session:
        rows = [*await session.scalars(select(RequestRecord).where(mine))]
        hashes = [*await session.scalars(select(Instruction.hash))]
    assert len(rows) == 5
    for row in rows:
        assert (row.end_user, row.features, row.embedding) == (None, b"", None)
        assert row.instruction_hash == b""
    assert hashes == [b"theirs"]
    assert await counted(sessions, UsageDay, UsageDay.end_user == "ursula") == 1
    assert await counted(sessions, Erasure) == 0
    entries = await AuditTrail(sessions).list(10, subject=str(app.tenant_id))
    assert (entries[0].action, entries[0].after) == (
        "tenant.erased",
        {"rows": 5, "batches": 0, "files": 0, "instructions": 1, "predictors": 0},
    )
    # A record that arrives from a spool long after the deletion.
    await written(sessions, tmp_path, a_record(**own, **learned))
    assert await counted(sessions, RequestRecord, mine, RequestRecord.end_user.is_not(None)) == 0
    assert (await usage_of(sessions, "acme"))[0][3] == 6


async def test_deleted_app_leaves_what_is_its_tenants(
    sessions: Sessions,
    build: Builder,
    deletions: Deletions,
    sweeper: ErasureSweeper,
    batches: Batches,
    a_record: ARecord,
    tmp_path: Path,
) -> None:
    tenant = await build.tenant("acme")
    gone, stays = await build.app(tenant, name="gone"), await build.app(tenant, name="stays")
    learned = {"feature_version": FEATURE_VERSION, "features": b"f", "end_user": "ursula"}
    await written(
        sessions,
        tmp_path,
        *(a_record(tenant_id=tenant.id, app_id=app.id, **learned) for app in (gone, stays)),
    )
    jobs = [await batches.create(caller_of(tenant, app), NEW) for app in (gone, stays)]
    store = FileStore(sessions, FileBounds())
    owner = FileOwner(tenant.id, gone.id, UUID(int=3))
    async with Uploads(store).receive(owner, filename="f") as upload:
        await upload.write(b"x")
        file = await upload.finish(purpose="batch", expires_after_s=None)
    await deletions.delete_app(gone.id, by="olga")
    assert await sweeper.sweep() == 1
    assert (await store.show(tenant.id, file.id)).state == "ready"
    statuses = [(await batches.show(tenant.id, job.id)).status for job in jobs]
    assert statuses == ["cancelling", "validating"]
    async with sessions() as session:
        users = dict(
            (await session.execute(select(RequestRecord.app_id, RequestRecord.end_user))).all()
        )
    assert users == {gone.id: None, stays.id: "ursula"}
    assert (await build.app(tenant, name="gone")).id != gone.id


async def test_deleted_tenants_batches_and_files_are_erased_in_portions(
    sessions: Sessions,
    build: Builder,
    deletions: Deletions,
    batches: Batches,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portions, "LINES", 2)
    tenant = await build.tenant()
    app = await build.app(tenant)
    caller = caller_of(tenant, app)
    store, woken = FileStore(sessions, FileBounds()), asyncio.Event()
    sweeper = ErasureSweeper(sessions, woken.set)
    async with Uploads(store).receive(FileOwner.of(caller), filename="f") as upload:
        await upload.write(b"x")
        await upload.finish(purpose="batch", expires_after_s=None)
    job = await batches.create(caller, NEW)
    line = {"batch_id": job.id, "prompt_tokens": 1, "predicted_tokens": 1.0, "rank": 0, "state": 0}
    async with sessions.begin() as session:
        await session.execute(insert(BatchLine), [{**line, "number": n} for n in range(5)])
    await deletions.delete_tenant(tenant.id, by="olga")
    assert await sweeper.sweep() == 1
    assert await counted(sessions, BatchLine) == await counted(sessions, Batch) == 0
    assert await counted(sessions, StoredFile, StoredFile.state != DELETED) == 0
    assert woken.is_set()


async def test_erasure_waits_for_a_locked_job_and_for_a_training_run(
    sessions: Sessions,
    build: Builder,
    deletions: Deletions,
    sweeper: ErasureSweeper,
    batches: Batches,
) -> None:
    tenant = await build.tenant()
    job = await batches.create(caller_of(tenant, await build.app(tenant)), NEW)
    async with sessions.begin() as writing:  # a gateway writes the job's files
        await writing.get(Batch, job.id, with_for_update=True)
        await deletions.delete_tenant(tenant.id, by="olga")
        assert await sweeper.sweep() == 0
    async with sessions.begin() as session:
        run = TrainingRun(id=new_id(), model="model", created_by="olga", state="running")
        session.add(run)
    assert await sweeper.sweep() == 0
    assert await counted(sessions, Batch) == 0
    async with sessions.begin() as session:
        (await session.get_one(TrainingRun, run.id)).state = "succeeded"
    assert await sweeper.sweep() == 1


async def test_another_gateway_goes_on_where_one_was_killed(
    sessions: Sessions,
    build: Builder,
    deletions: Deletions,
    sweeper: ErasureSweeper,
    a_record: ARecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portions, "ROWS", 1)
    app = await build.app()
    owner = {"tenant_id": app.tenant_id, "app_id": app.id, "end_user": "ursula"}
    await written(sessions, tmp_path, *(a_record(**owner) for _ in range(3)))
    await deletions.delete_tenant(app.tenant_id, by="olga")
    killed = asyncio.create_task(ErasureSweeper(sessions, lambda: None).sweep())
    async with asyncio.timeout(PATIENCE_S):
        while not await counted(sessions, Erasure, Erasure.rows > 0):
            await asyncio.sleep(0)
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    await sweeper.sweep()
    entries = await AuditTrail(sessions).list(1, subject=str(app.tenant_id))
    assert entries[0].after is not None
    assert entries[0].after["rows"] == 3


async def test_caller_admitted_before_the_deletion_can_add_nothing_after_it(
    sessions: Sessions, build: Builder, deletions: Deletions, batches: Batches
) -> None:
    tenant = await build.tenant()
    gone, other = await build.app(tenant), await build.app(tenant)
    uploads = Uploads(FileStore(sessions, FileBounds()))

    async def adds(app: App) -> None:
        with pytest.raises(Unauthenticated):
            await batches.create(caller_of(tenant, app), NEW)
        with pytest.raises(Unauthenticated):
            async with uploads.receive(FileOwner.of(caller_of(tenant, app)), filename="f"):
                pass

    await deletions.delete_app(gone.id, by="olga")
    await adds(gone)
    await deletions.delete_tenant(tenant.id, by="olga")
    await adds(other)


async def test_history_waits_for_a_deletion_that_is_not_committed(
    sessions: Sessions, build: Builder, a_record: ARecord, tmp_path: Path
) -> None:
    app = await build.app()
    record = a_record(tenant_id=app.tenant_id, app_id=app.id, end_user="ursula")
    async with sessions.begin() as deleting:
        tenant = await deleting.get_one(Tenant, app.tenant_id, with_for_update=True)
        tenant.deleted_at = datetime.now(UTC)
        note(deleting, "olga", "tenant.deleted", tenant.id)
        await deleting.flush()
        writing = asyncio.create_task(written(sessions, tmp_path, record))
        async with sessions() as watching, asyncio.timeout(PATIENCE_S):
            while not await watching.scalar(WAITS):
                await asyncio.sleep(0.01)
    async with asyncio.timeout(PATIENCE_S):
        await writing
    assert await counted(sessions, RequestRecord, RequestRecord.end_user.is_(None)) == 1


async def test_renamed_tenant_and_app_keep_their_usage_and_a_taken_name_is_refused(
    sessions: Sessions, build: Builder, a_record: ARecord, tmp_path: Path
) -> None:
    tenant, taken = await build.tenant("acme"), await build.tenant("taken")
    app = await build.app(tenant, name="chat")
    key = await build.key(app)
    await build.app(tenant, name="mail")
    tenants, apps = Tenants(sessions), Apps(sessions)
    await written(
        sessions,
        tmp_path,
        a_record(tenant_id=tenant.id, app_id=app.id, api_key_id=key.key.id),
    )
    with pytest.raises(Conflict):
        await tenants.change(tenant.id, name=taken.name, by="olga")
    with pytest.raises(Conflict):
        await apps.change(app.id, name="mail", by="olga")
    await tenants.change(tenant.id, name="acme & sons", by="olga")
    await apps.change(app.id, name="talk", instruction="Be brief.", by="olga")
    assert (await usage_of(sessions, "acme & sons"))[0][:2] == ("acme & sons", "talk")
    assert await usage_of(sessions, "acme") == []
    caller = await build.authenticator.authenticate(key.secret)
    assert (caller.tenant, caller.app, caller.instruction) == ("acme & sons", "talk", "Be brief.")
    assert (await apps.change(app.id, instruction="", by="olga")).instruction is None
    entries = await AuditTrail(sessions).list(3)
    assert [(each.action, each.after) for each in reversed(entries)] == [
        ("tenant.changed", {"name": "acme & sons"}),
        ("app.changed", {"name": "talk", "instruction_characters": 9}),
        ("app.changed", {"instruction_characters": 0}),
    ]


async def test_deleted_demo_tenant_does_not_come_back(
    sessions: Sessions, deletions: Deletions
) -> None:
    assert await ensure_demo(sessions, [])
    async with sessions() as session:
        demo = (await session.scalars(select(Tenant.id).where(Tenant.name == TENANT))).one()
    await deletions.delete_tenant(demo, by="olga")
    assert await ensure_demo(sessions, [], "sk-lmaas-given") is None
    assert (await Tenants(sessions).list(Cursor())).items == []


async def test_limits_end_with_their_owners_and_none_is_set_for_deleted_ones(
    sessions: Sessions, build: Builder, deletions: Deletions
) -> None:
    tenant = await build.tenant("acme")
    gone, app = await build.app(tenant, name="gone"), await build.app(tenant, name="chat")
    await build.key(app, name="laptop")
    limits = Limits(sessions)
    owners: list[tuple[Level, str]] = [
        ("tenant", "acme"),
        ("app", "acme/gone"),
        ("user", "acme/chat"),
        ("key", "acme/chat/laptop"),
    ]
    for level, owner in owners:
        await limits.set(a_limit(level, owner), by="olga")
    await deletions.delete_app(gone.id, by="olga")
    assert await counted(sessions, StoredLimit) == 3
    await deletions.delete_tenant(tenant.id, by="olga")
    assert await counted(sessions, StoredLimit) == 0
    for level, owner in [*owners, ("tenant", str(tenant.id)), ("app", str(app.id))]:
        with pytest.raises(NotFound):
            await limits.set(a_limit(level, owner), by="olga")


async def test_erasure_that_fails_holds_up_no_other(
    sessions: Sessions,
    build: Builder,
    deletions: Deletions,
    sweeper: ErasureSweeper,
    batches: Batches,
) -> None:
    tenants = [await build.tenant() for _ in range(2)]
    for tenant in tenants:
        app = await build.app(tenant)
        await batches.create(caller_of(tenant, app), NEW)
        await deletions.delete_tenant(tenant.id, by="olga")
    async with damaged(sessions, "DELETE", "batches", f"OLD.tenant_id = '{tenants[0].id}'"):
        assert await sweeper.sweep() == 1
        assert await counted(sessions, Erasure, Erasure.tenant_id == tenants[0].id) == 1
    assert await sweeper.sweep() == 1
    assert await counted(sessions, Erasure) == 0
