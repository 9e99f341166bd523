"""Reads, lists and deletes the files of tenants, and writes those of batch jobs."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LOST_MESSAGE, Sessions, transaction
from gateway.errors import Conflict, DatabaseLost, NotFound
from gateway.files.bounds import FileBounds
from gateway.files.chunks import ChunkWriter, lines_of
from gateway.history.audit import note
from gateway.tenancy.caller import Caller
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.tenants import present_tenant
from models import FileChunk, StoredFile
from models.base import new_id

UPLOADING: Final = "uploading"
READY: Final = "ready"
DELETED: Final = "deleted"
# At a time, over all files: few, so that they leave the pool to others.
MAX_TRANSACTIONS: Final = 4
CHUNK_S: Final = 30.0  # to read or store a chunk, its turn included
ERASED: Final = "the file was erased while it was written"
MAX_LINE_BYTES: Final = 1 << 20

Order: TypeAlias = Literal["asc", "desc"]


class FileOwner(Struct, frozen=True):
    """The tenant that a file belongs to, and the app and key that it came by."""

    tenant_id: UUID
    app_id: UUID
    api_key_id: UUID

    @classmethod
    def of(cls, caller: Caller) -> "FileOwner":
        """The caller as the owner of what it uploads."""
        return cls(caller.tenant_id, caller.app_id, caller.api_key_id)


class ErasedFiles(Struct, frozen=True):
    """The number of files erased, and their bytes."""

    files: int
    size_bytes: int


class FileWriter:
    """A new file in the caller's transaction: it exists once that commits after `finish`."""

    def __init__(self, session: AsyncSession, file_id: UUID) -> None:
        self.id = file_id
        self._session = session
        self._chunks = ChunkWriter(self._put)

    async def write(self, data: bytes) -> None:
        """Append the data; at most a chunk of it stays in memory."""
        await self._chunks.write(data)

    async def finish(self) -> StoredFile:
        """The whole file. Nothing may be written afterwards."""
        contents = await self._chunks.finish()
        return await complete(
            self._session, self.id, size_bytes=contents.size_bytes, sha256=contents.sha256
        )

    async def _put(self, number: int, data: bytes) -> None:
        await put_chunk(self._session, self.id, number, data)


class FileStore:
    """The files of all tenants. A tenant's apps and keys all see its files, others see none.

    `wake` is called when there is something to sweep.
    """

    def __init__(
        self, sessions: Sessions, bounds: FileBounds, *, wake: Callable[[], None] = lambda: None
    ) -> None:
        self.bounds = bounds
        self._sessions = sessions
        self.wake = wake
        self._turns = asyncio.Semaphore(MAX_TRANSACTIONS)

    async def show(self, tenant_id: UUID, file_id: UUID | None) -> StoredFile:
        """A file of the tenant. NotFound, the same for an unknown id and another tenant's."""
        statement = select(StoredFile).where(*_visible(tenant_id), StoredFile.id == file_id)
        async with transaction(self._sessions) as session:
            file = await session.scalar(statement)
        if file is None:
            raise no_file()
        return file

    async def list(
        self,
        tenant_id: UUID,
        *,
        limit: int,
        after: UUID | None = None,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[StoredFile]:
        """A page of the tenant's files by their creation, from the one after `after` on."""
        conditions = _visible(tenant_id)
        if purpose is not None:
            conditions.append(StoredFile.purpose == purpose)
        async with transaction(self._sessions) as session:
            return await read_page(
                session,
                StoredFile,
                Cursor(limit, after),
                *conditions,
                newest_first=order == "desc",
            )

    async def delete(self, tenant_id: UUID, file_id: UUID | None) -> None:
        """Delete a file of the tenant: invisible at once, its bytes are swept soon. NotFound."""
        statement = (
            update(StoredFile)
            .where(*_visible(tenant_id), StoredFile.id == file_id)
            .values(_deleted())
            .returning(StoredFile.id)
        )
        async with transaction(self._sessions) as session:
            found = await session.scalar(statement)
        if found is None:
            raise no_file()
        self.wake()

    async def erase(self, tenant_id: UUID, *, by: str) -> ErasedFiles:
        """Delete every file of a tenant, unfinished uploads too; recorded in the audit trail.

        NotFound if there is no such tenant.
        """
        statement = (
            update(StoredFile)
            .where(StoredFile.tenant_id == tenant_id, StoredFile.state != DELETED)
            .values(_deleted())
            .returning(StoredFile.size_bytes)
        )
        async with transaction(self._sessions) as session:
            await present_tenant(session, tenant_id)
            sizes = [*await session.scalars(statement)]
            erased = ErasedFiles(len(sizes), sum(sizes))
            after = {"files": erased.files, "bytes": erased.size_bytes}
            note(session, by, "files.erased", tenant_id, after=after)
        self.wake()
        return erased

    async def read(self, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """The file's chunks, each read in a transaction of its own, none of them held meanwhile.

        NotFound if the file is deleted or expires before its end; DatabaseLost.
        """
        number, left = 0, file.size_bytes
        while left > 0:
            async with self.turn() as session:
                chunk = await session.scalar(
                    select(FileChunk.data)
                    .join(StoredFile, StoredFile.id == FileChunk.file_id)
                    .where(
                        *_visible(file.tenant_id),
                        FileChunk.file_id == file.id,
                        FileChunk.number == number,
                    )
                )
            if chunk is None:
                raise NotFound("the file was deleted while it was read")
            number, left = number + 1, left - len(chunk)
            yield chunk

    async def open_lines(
        self, tenant_id: UUID, file_id: UUID, *, max_line_bytes: int = MAX_LINE_BYTES
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a file of the tenant, without their line ends, read as they are asked for.

        A longer line than `max_line_bytes` is cut one byte after it: its length shows that it is
        too long. Empty lines are yielded, so that line numbers can be counted. NotFound,
        DatabaseLost. Close the generator (`contextlib.aclosing`) if it is left early.
        """
        file = await self.show(tenant_id, file_id)
        async with (
            aclosing(self.read(file)) as chunks,
            aclosing(lines_of(chunks, max_line_bytes)) as lines,
        ):
            async for line in lines:
                yield line

    async def create(
        self,
        session: AsyncSession,
        owner: FileOwner,
        *,
        filename: str,
        purpose: str,
        expires_after_s: float | None = None,
    ) -> FileWriter:
        """A writer for a new file of any size in the caller's transaction.

        The file counts towards what its tenant keeps, but is never refused. It expires after
        `expires_after_s` seconds, at the latest with the setting's retention.
        """
        file_id = new_id()
        row = new_file(owner, file_id, filename=filename, purpose=purpose)
        row["expires_at"] = func.now() + self.retention(expires_after_s)
        await session.execute(insert(StoredFile).values(row))
        return FileWriter(session, file_id)

    def retention(self, expires_after_s: float | None) -> timedelta:
        """The time from a file's creation to its expiry; None: as long as files are kept."""
        longest = self.bounds.retention
        if expires_after_s is None:
            return longest
        return min(longest, timedelta(seconds=expires_after_s))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[AsyncSession]:
        """A transaction for one chunk, of which there are few at a time. DatabaseLost in time."""
        limit = asyncio.timeout(CHUNK_S)
        try:
            async with (
                limit,
                self._turns,
                transaction(self._sessions, conflict=ERASED) as session,
            ):
                yield session
        except TimeoutError as error:
            if limit.expired():
                raise DatabaseLost(LOST_MESSAGE) from error
            raise


def no_file() -> NotFound:
    """The error for a file that the tenant does not have; the id is not repeated."""
    return NotFound("there is no file of this id", param="file_id")


def new_file(owner: FileOwner, file_id: UUID, *, filename: str, purpose: str) -> dict[str, object]:
    """The row of an empty file that is being written; `expires_at` is the caller's to add."""
    return {
        "id": file_id,
        "tenant_id": owner.tenant_id,
        "app_id": owner.app_id,
        "api_key_id": owner.api_key_id,
        "filename": filename,
        "purpose": purpose,
        "state": UPLOADING,
        "size_bytes": 0,
    }


async def put_chunk(session: AsyncSession, file_id: UUID, number: int, data: bytes) -> None:
    """Store a chunk of a file."""
    row = {"file_id": file_id, "number": number, "data": data}
    await session.execute(insert(FileChunk).values(row))


async def complete(session: AsyncSession, file_id: UUID, **values: object) -> StoredFile:
    """The file, which is visible once the transaction commits. Conflict if it was erased."""
    statement = (
        update(StoredFile)
        .where(StoredFile.id == file_id, StoredFile.state == UPLOADING)
        .values(state=READY, **values)
        .returning(StoredFile)
    )
    file = await session.scalar(statement)
    if file is None:
        raise Conflict(ERASED)
    return file


def _visible(tenant_id: UUID) -> list[ColumnElement[bool]]:
    """The conditions for a file that the tenant's callers see."""
    return [
        StoredFile.tenant_id == tenant_id,
        StoredFile.state == READY,
        StoredFile.expires_at > func.now(),
    ]


def _deleted() -> dict[str, object]:
    """The new values of a row that is to be swept."""
    return {"state": DELETED, "expires_at": func.now()}
