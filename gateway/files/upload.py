"""Uploads: chunks are stored as they come, and a file appears only once it is complete."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.errors import (
    FileQuotaExceeded,
    FileTooLarge,
    LmaasError,
    RequestTimeout,
    TooManyUploads,
)
from gateway.files.chunks import ChunkWriter
from gateway.files.store import (
    DELETED,
    UPLOADING,
    FileOwner,
    FileStore,
    complete,
    new_file,
    put_chunk,
)
from gateway.tenancy.tenants import lock_tenant
from models import StoredFile
from models.base import new_id

MAX_TENANT_UPLOADS: Final = 8  # at a time and gateway; each holds up to a chunk in memory
# A client that is too slow gets its 408 from the connection; these come after it.
STORING_S: Final = 30.0  # more than the client may take, for the database
DISCARD_S: Final = 2.0  # after which it is left to the sweeper
LEASE_S: Final = 60.0  # from there until the sweeper may take it for cut off

log = structlog.get_logger(__name__)


class Upload:
    """A file that is being received; `most` is the number of bytes reserved for it."""

    def __init__(self, store: FileStore, file_id: UUID, most: int) -> None:
        self._store = store
        self._id = file_id
        self._most = most
        self._chunks = ChunkWriter(self._put)

    async def write(self, data: bytes) -> None:
        """Append the data. FileTooLarge, FileQuotaExceeded; DatabaseLost."""
        if self._chunks.size_bytes + len(data) > self._most:
            if self._most >= self._store.bounds.file_bytes:
                raise file_too_large(self._store.bounds.file_bytes)
            raise FileQuotaExceeded("the tenant may not keep that many bytes in files")
        await self._chunks.write(data)

    async def finish(self, *, purpose: str, expires_after_s: float | None) -> StoredFile:
        """The file, visible from now on. Conflict if an administrator erased it meanwhile."""
        contents = await self._chunks.finish()
        async with self._store.turn() as session:
            return await complete(
                session,
                self._id,
                size_bytes=contents.size_bytes,
                sha256=contents.sha256,
                purpose=purpose,
                expires_at=StoredFile.created_at + self._store.retention(expires_after_s),
            )

    async def _put(self, number: int, data: bytes) -> None:
        async with self._store.turn() as session:
            await put_chunk(session, self._id, number, data)


class Uploads:
    """Admits uploads within the tenant's bounds, and leaves nothing of those that are cut off."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._running: Counter[UUID] = Counter()

    @asynccontextmanager
    async def receive(
        self, owner: FileOwner, *, filename: str, least: int = 0, most: int | None = None
    ) -> AsyncIterator[Upload]:
        """An upload; unless it is finished, what was stored of it is deleted.

        `least` and `most`: the bytes it will have, as far as known. FileQuotaExceeded,
        TooManyUploads; RequestTimeout if it takes too long.
        """
        limit_s = self._store.bounds.upload_s + STORING_S
        limit = asyncio.timeout(limit_s)
        file_id = new_id()
        with self._counted(owner.tenant_id):
            try:
                async with limit:
                    yield await self._begin(owner, file_id, filename, least, most)
            except BaseException as error:
                await asyncio.shield(self._discard(file_id))
                if isinstance(error, TimeoutError) and limit.expired():
                    raise RequestTimeout(f"the file was not stored within {limit_s:g} s") from error
                raise

    async def _begin(
        self, owner: FileOwner, file_id: UUID, filename: str, least: int, most: int | None
    ) -> Upload:
        """Reserve the upload's bytes among what its tenant may keep."""
        bounds = self._store.bounds
        most = bounds.file_bytes if most is None else min(bounds.file_bytes, most)
        row = new_file(owner, file_id, filename=filename, purpose="")
        lease = timedelta(seconds=bounds.upload_s + STORING_S + LEASE_S)
        async with self._store.turn() as session:
            files, left = await self._left(session, owner)
            if files >= bounds.tenant_files:
                raise FileQuotaExceeded(f"the tenant keeps {files} files, the most it may")
            if left <= 0 or left < least:
                raise FileQuotaExceeded(
                    f"the tenant may keep {bounds.tenant_bytes} bytes in files; "
                    f"{max(left, 0)} are left"
                )
            most = min(most, left)
            row |= {"size_bytes": most, "expires_at": func.now() + lease}
            await session.execute(insert(StoredFile).values(row))
        return Upload(self._store, file_id, most)

    async def _left(self, session: AsyncSession, owner: FileOwner) -> tuple[int, int]:
        """The tenant's number of files, and the bytes that it may still store.

        Its row is locked, so that uploads at the same time do not take the same bytes.
        """
        await lock_tenant(session, owner.tenant_id, owner.app_id)
        kept = select(func.count(), func.coalesce(func.sum(StoredFile.size_bytes), 0)).where(
            StoredFile.tenant_id == owner.tenant_id,
            StoredFile.state != DELETED,
            StoredFile.expires_at > func.now(),
        )
        files, total = (await session.execute(kept)).one()
        return files, self._store.bounds.tenant_bytes - int(total)

    async def _discard(self, file_id: UUID) -> None:
        """Leave what was stored to the sweeper; if that fails, it finds it by its expiry."""
        statement = (
            update(StoredFile)
            .where(StoredFile.id == file_id, StoredFile.state == UPLOADING)
            .values(state=DELETED, expires_at=func.now())
        )
        try:
            async with asyncio.timeout(DISCARD_S), self._store.turn() as session:
                await session.execute(statement)
        except (LmaasError, TimeoutError) as error:
            log.warning("upload_discarded_later", reason=repr(error))
        else:
            self._store.wake()

    @contextmanager
    def _counted(self, tenant_id: UUID) -> Iterator[None]:
        if self._running[tenant_id] >= MAX_TENANT_UPLOADS:
            raise TooManyUploads(
                f"{MAX_TENANT_UPLOADS} files are being uploaded, the most at the same time"
            )
        self._running[tenant_id] += 1
        try:
            yield
        finally:
            self._running[tenant_id] -= 1
            self._running += Counter()  # drops zeros


def file_too_large(most: int) -> FileTooLarge:
    """The error for a file of more than `most` bytes."""
    return FileTooLarge(f"the file is larger than {most} bytes", param="file")
