"""Files on a real database, and the routes over them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import httpx
import pytest
from litestar import Litestar, Router
from litestar.di import Provide
from sqlalchemy import func, select

from gateway.api.body import BodyLimits, bounded_request
from gateway.api.errors import exception_handlers
from gateway.api.guards import api_key_guard, provide_caller
from gateway.api.openai.files.routes import files_router
from gateway.database.errors import Sessions
from gateway.files.bounds import FileBounds
from gateway.files.store import FileOwner, FileStore
from gateway.files.upload import Uploads
from gateway.generation.text.workers import TextWorkers
from models import FileChunk, StoredFile, Tenant
from models.base import new_id
from tests.conftest import Builder

BOUNDS = FileBounds(file_bytes=1 << 20, tenant_bytes=2 << 20, tenant_files=5)
Put: TypeAlias = Callable[..., Awaitable[StoredFile]]


def owner_of(tenant: Tenant) -> FileOwner:
    return FileOwner(tenant.id, new_id(), new_id())


async def rows(sessions: Sessions) -> tuple[int, int]:
    """The numbers of files, in any state, and of chunks."""
    async with sessions() as session:
        files = await session.scalar(select(func.count()).select_from(StoredFile))
        chunks = await session.scalar(select(func.count()).select_from(FileChunk))
    return files or 0, chunks or 0


@pytest.fixture
def store(sessions: Sessions) -> FileStore:
    return FileStore(sessions, BOUNDS)


@pytest.fixture
def uploads(store: FileStore) -> Uploads:
    return Uploads(store)


@pytest.fixture
def put(uploads: Uploads) -> Put:
    """Uploads a file."""

    async def upload(
        owner: FileOwner,
        data: bytes = b"data",
        *,
        expires_after_s: float | None = None,
        **known: Any,
    ) -> StoredFile:
        async with uploads.receive(owner, filename="a.jsonl", **known) as upload:
            await upload.write(data)
            return await upload.finish(purpose="batch", expires_after_s=expires_after_s)

    return upload


@pytest.fixture
def application(build: Builder, store: FileStore, uploads: Uploads) -> Litestar:
    return Litestar(
        [
            Router(
                "/v1",
                route_handlers=[files_router(BOUNDS.file_bytes)],
                guards=[api_key_guard(build.authenticator)],
                dependencies={
                    "caller": Provide(provide_caller),
                    "files": Provide(lambda: store, sync_to_thread=False),
                    "uploads": Provide(lambda: uploads, sync_to_thread=False),
                },
            )
        ],
        request_class=bounded_request(BodyLimits, TextWorkers()),
        exception_handlers=exception_handlers,
        request_max_body_size=None,
        logging_config=None,
    )


@pytest.fixture
async def client(application: Litestar, build: Builder) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an app's key."""
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        client.headers["authorization"] = f"Bearer {(await build.key()).secret}"
        yield client
