"""Files in Postgres: bounds, isolation, retention, and nothing left of a cut-off upload."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import (
    ClientGone,
    Conflict,
    FileQuotaExceeded,
    FileTooLarge,
    NotFound,
    RequestTimeout,
    TooManyUploads,
)
from gateway.files.bounds import FileBounds
from gateway.files.chunks import CHUNK_BYTES
from gateway.files.store import FileOwner, FileStore
from gateway.files.sweeper import CHUNKS, FileSweeper
from gateway.files.upload import MAX_TENANT_UPLOADS, Uploads
from models import AuditEntry, StoredFile
from models.base import new_id
from tests.conftest import PATIENCE_S, Builder
from tests.integration.damage import damaged
from tests.integration.files.conftest import BOUNDS, Put, owner_of, rows
from tests.integration.query_count import counted


@pytest.fixture
async def owner(build: Builder) -> FileOwner:
    return owner_of(await build.tenant())


async def contents(store: FileStore, file: StoredFile) -> bytes:
    return b"".join([chunk async for chunk in store.read(file)])


async def test_file_is_read_as_it_was_written(store: FileStore, put: Put, owner: FileOwner) -> None:
    data = bytes(range(256)) * 2500  # two chunks and a part
    file = await put(owner, data)
    assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).digest())
    assert await contents(store, await store.show(owner.tenant_id, file.id)) == data


async def test_empty_file_is_stored(store: FileStore, put: Put, owner: FileOwner) -> None:
    file = await put(owner, b"")
    assert (file.size_bytes, await contents(store, file)) == (0, b"")


async def test_chunks_are_stored_while_more_is_awaited(
    uploads: Uploads, sessions: Sessions, owner: FileOwner
) -> None:
    async with uploads.receive(owner, filename="x") as upload:
        await upload.write(b"x" * (2 * CHUNK_BYTES + 1))
        assert await rows(sessions) == (1, 2)
        await upload.finish(purpose="batch", expires_after_s=None)
    assert await rows(sessions) == (1, 3)


async def test_upload_that_fails_is_invisible_at_once_and_swept(
    store: FileStore, uploads: Uploads, sessions: Sessions, owner: FileOwner
) -> None:
    async def cut_off() -> None:
        async with uploads.receive(owner, filename="x") as upload:
            await upload.write(b"x" * CHUNK_BYTES)
            raise ClientGone("it went away")

    with pytest.raises(ClientGone):
        await cut_off()
    assert not (await store.list(owner.tenant_id, limit=10)).items
    await FileSweeper(sessions).sweep()
    assert await rows(sessions) == (0, 0)


async def test_upload_whose_gateway_died_is_swept_after_its_lease(
    uploads: Uploads, sessions: Sessions, owner: FileOwner
) -> None:
    async with uploads.receive(owner, filename="x") as upload:
        await upload.write(b"x" * CHUNK_BYTES)
        sweeper = FileSweeper(sessions)
        assert await sweeper.sweep() == 0
        async with sessions.begin() as session:
            await session.execute(update(StoredFile).values(expires_at=datetime.now(UTC)))
        assert await sweeper.sweep() == 1
        with pytest.raises(Conflict):
            await upload.finish(purpose="batch", expires_after_s=None)
    assert await rows(sessions) == (0, 0)


async def test_upload_that_takes_too_long_is_ended(
    sessions: Sessions, owner: FileOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.files.upload.STORING_S", 0)
    uploads = Uploads(FileStore(sessions, FileBounds(upload_s=0.5)))
    with pytest.raises(RequestTimeout):
        async with uploads.receive(owner, filename="x"):
            await asyncio.Event().wait()
    await FileSweeper(sessions).sweep()
    assert await rows(sessions) == (0, 0)


async def test_file_over_the_limit_is_refused(put: Put, owner: FileOwner) -> None:
    await put(owner, b"x" * BOUNDS.file_bytes)
    with pytest.raises(FileTooLarge, match=str(BOUNDS.file_bytes)):
        await put(owner, b"x" * (BOUNDS.file_bytes + 1))


async def test_bytes_of_a_tenant_are_bounded_and_return_with_a_deletion(
    store: FileStore, put: Put, owner: FileOwner
) -> None:
    first = await put(owner, b"x" * BOUNDS.file_bytes)
    await put(owner, b"x" * (BOUNDS.file_bytes - 1))
    await put(owner, b"x")
    with pytest.raises(FileQuotaExceeded, match="0 are left"):
        await put(owner)
    await store.delete(owner.tenant_id, first.id)
    await put(owner)


async def test_announced_bytes_over_the_bound_are_refused_before_they_are_read(
    put: Put, owner: FileOwner
) -> None:
    await put(owner, b"x" * BOUNDS.file_bytes)
    await put(owner, b"x" * 100)
    with pytest.raises(FileQuotaExceeded):
        await put(owner, least=BOUNDS.file_bytes, most=BOUNDS.file_bytes)
    with pytest.raises(FileQuotaExceeded):  # nothing is announced
        await put(owner, b"x" * BOUNDS.file_bytes)


async def test_uploads_at_the_same_time_do_not_take_the_same_bytes(
    uploads: Uploads, owner: FileOwner
) -> None:
    most = BOUNDS.file_bytes
    refused = 0

    async def upload() -> None:
        nonlocal refused
        try:
            async with uploads.receive(owner, filename="x", least=most, most=most) as upload:
                await upload.write(b"x" * most)
                await upload.finish(purpose="batch", expires_after_s=None)
        except FileQuotaExceeded:
            refused += 1

    await asyncio.gather(*(upload() for _ in range(4)))
    assert refused == 2


async def test_number_of_files_is_bounded(put: Put, owner: FileOwner, build: Builder) -> None:
    for _ in range(BOUNDS.tenant_files):
        await put(owner)
    with pytest.raises(FileQuotaExceeded, match="keeps 5 files"):
        await put(owner)
    await put(owner_of(await build.tenant()))


async def test_uploads_of_a_tenant_at_the_same_time_are_bounded(
    sessions: Sessions, owner: FileOwner
) -> None:
    uploads = Uploads(FileStore(sessions, FileBounds()))
    held = [uploads.receive(owner, filename="x", most=10) for _ in range(MAX_TENANT_UPLOADS)]
    for each in held:
        await each.__aenter__()
    with pytest.raises(TooManyUploads):
        async with uploads.receive(owner, filename="x"):
            pass
    for each in held:
        await each.__aexit__(None, None, None)
    async with uploads.receive(owner, filename="x") as upload:
        await upload.finish(purpose="batch", expires_after_s=None)


async def test_foreign_and_unknown_ids_get_the_same_answer_by_the_same_statements(
    store: FileStore, put: Put, owner: FileOwner, build: Builder, database: Database
) -> None:
    foreign = (await put(owner)).id
    mine = (await build.tenant()).id
    seen = []
    for file_id in (foreign, new_id(), None):
        for ask in (store.show, store.delete):
            with counted(database) as statements, pytest.raises(NotFound) as refused:
                await ask(mine, file_id)
            seen.append((ask.__name__, str(refused.value), len(statements)))
    assert len(set(seen)) == 2
    assert (await store.show(owner.tenant_id, foreign)).id == foreign
    assert not (await store.list(mine, limit=10)).items


async def test_expired_file_is_gone_for_every_call(
    store: FileStore, put: Put, sessions: Sessions, owner: FileOwner
) -> None:
    file = await put(owner)
    async with sessions.begin() as session:
        await session.execute(update(StoredFile).values(expires_at=datetime.now(UTC)))
    for ask in (store.show, store.delete):
        with pytest.raises(NotFound):
            await ask(owner.tenant_id, file.id)
    with pytest.raises(NotFound):
        await contents(store, file)


@pytest.mark.parametrize(("asked_s", "kept"), [(None, 30), (86_400.0, 1), (40 * 86_400.0, 30)])
async def test_retention_is_the_shorter_of_the_settings_and_what_is_asked_for(
    put: Put, owner: FileOwner, asked_s: float | None, kept: int
) -> None:
    file = await put(owner, expires_after_s=asked_s)
    assert file.expires_at - file.created_at == timedelta(days=kept)


async def test_two_sweepers_delete_every_expired_file_and_no_other(
    store: FileStore, sessions: Sessions, owner: FileOwner
) -> None:
    for size in [1, (CHUNKS + 1) * CHUNK_BYTES, CHUNKS * CHUNK_BYTES, 0, CHUNK_BYTES]:
        async with sessions.begin() as session:
            writer = await store.create(session, owner, filename="x", purpose="batch_output")
            await writer.write(b"x" * size)
            file = await writer.finish()
        if size != 1:
            await store.delete(owner.tenant_id, file.id)
    swept = await asyncio.gather(FileSweeper(sessions).sweep(), FileSweeper(sessions).sweep())
    assert sum(swept) == 4
    assert await rows(sessions) == (1, 1)


async def test_file_that_cannot_be_deleted_holds_up_no_other(
    store: FileStore, put: Put, sessions: Sessions, owner: FileOwner
) -> None:
    damage, other = [await put(owner, b"x") for _ in range(2)]
    for file in (damage, other):
        await store.delete(owner.tenant_id, file.id)
    sweeper = FileSweeper(sessions)
    async with damaged(sessions, "DELETE", "file_chunks", f"OLD.file_id = '{damage.id}'"):
        assert await sweeper.sweep() == 1
        assert await rows(sessions) == (1, 1)
    assert await sweeper.sweep() == 1
    assert await rows(sessions) == (0, 0)


async def test_running_sweeper_deletes_soon_after_a_deletion(
    sessions: Sessions, owner: FileOwner
) -> None:
    sweeper = FileSweeper(sessions)
    store = FileStore(sessions, BOUNDS, wake=sweeper.wake)
    async with Uploads(store).receive(owner, filename="x") as upload:
        file = await upload.finish(purpose="batch", expires_after_s=None)
    sweeper.start()
    await store.delete(owner.tenant_id, file.id)
    async with asyncio.timeout(PATIENCE_S):
        while await rows(sessions) != (0, 0):
            await asyncio.sleep(0.01)
    await sweeper.close()


async def test_erasure_takes_every_file_of_the_tenant_and_is_recorded(
    *,
    store: FileStore,
    put: Put,
    uploads: Uploads,
    sessions: Sessions,
    owner: FileOwner,
    build: Builder,
) -> None:
    kept = await put(owner_of(await build.tenant()))
    await put(owner)
    async with uploads.receive(owner, filename="x", most=10) as upload:
        await upload.write(b"x")
        erased = await store.erase(owner.tenant_id, by="someone")
        assert (erased.files, erased.size_bytes) == (2, 14)
        with pytest.raises(Conflict):
            await upload.finish(purpose="batch", expires_after_s=None)
    await FileSweeper(sessions).sweep()
    async with sessions() as session:
        assert [*await session.scalars(select(StoredFile.id))] == [kept.id]
        entry = await session.scalar(select(AuditEntry).where(AuditEntry.action == "files.erased"))
    assert entry
    assert (entry.actor, entry.after) == ("someone", {"files": 2, "bytes": 14})
    with pytest.raises(NotFound):
        await store.erase(new_id(), by="someone")


async def test_written_file_exists_once_its_transaction_commits(
    store: FileStore, sessions: Sessions, owner: FileOwner
) -> None:
    async with sessions() as session:
        writer = await store.create(session, owner, filename="out.jsonl", purpose="batch_output")
        for number in range(5):
            await writer.write(f"line {number}\n".encode())
        await writer.finish()
        with pytest.raises(NotFound):
            await store.show(owner.tenant_id, writer.id)
        await session.commit()
    lines = [line async for line in store.open_lines(owner.tenant_id, writer.id)]
    assert lines == [f"line {number}".encode() for number in range(5)]


async def test_written_file_of_a_rolled_back_transaction_never_existed(
    store: FileStore, sessions: Sessions, owner: FileOwner
) -> None:
    async with sessions() as session:
        writer = await store.create(session, owner, filename="x", purpose="batch_output")
        await writer.write(b"x" * CHUNK_BYTES)
        await writer.finish()
    assert await rows(sessions) == (0, 0)


async def test_lines_over_their_bound_show_it(store: FileStore, put: Put, owner: FileOwner) -> None:
    file = await put(owner, b"short\n" + b"x" * 300_000 + b"\n\nend")
    lines = store.open_lines(owner.tenant_id, file.id, max_line_bytes=5)
    assert [line async for line in lines] == [b"short", b"x" * 6, b"", b"end"]
