"""Another tenant's id takes the path of an unknown one: the same error by the same statements."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import LmaasError, NotFound
from gateway.files.bounds import FileBounds
from gateway.files.store import FileOwner, FileStore
from gateway.files.upload import Uploads
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.jobs.batches.batches import Batches, NewBatch
from gateway.jobs.batches.limits import BatchLimits
from gateway.tenancy.caller import Caller
from gateway.usage.request import RequestUsages
from models.base import new_id
from tests.conftest import Builder
from tests.e2e.every_route.test_isolation import KEY, ROUTES
from tests.integration.query_count import counted

Call: TypeAlias = Callable[[UUID, UUID], Awaitable[object]]  # of a tenant, with an id
WITHOUT_ID = {"GET /v1/models/{model}"}  # every tenant has the same model, and no query is sent
FILE, BATCH, REQUEST = "file", "batch", "request"


@pytest.fixture
def calls(sessions: Sessions) -> Mapping[str, tuple[str, Call]]:
    """What each route asks of the database for an id that a client sends."""
    files = FileStore(sessions, FileBounds())
    batches = Batches(sessions, "model", BatchLimits(), lambda: None)
    usages = RequestUsages(sessions)
    return {
        "GET /v1/files/{file_id}": (FILE, files.show),
        "GET /v1/files/{file_id}/content": (FILE, files.show),
        "DELETE /v1/files/{file_id}": (FILE, files.delete),
        "POST /v1/batches": (FILE, files.show),
        "GET /v1/batches/{batch_id}": (BATCH, batches.show),
        "POST /v1/batches/{batch_id}/cancel": (BATCH, batches.cancel),
        "GET /v1/requests/{request_id}": (
            REQUEST,
            lambda tenant, request: usages.find(request, tenant),
        ),
    }


@pytest.fixture
async def owned(
    sessions: Sessions, build: Builder, a_record: Callable[..., Record], tmp_path: Path
) -> Mapping[str, UUID]:
    """The ids of a file, a batch and a request of a tenant."""
    app = await build.app()
    owner = FileOwner(app.tenant_id, app.id, UUID(int=3))
    async with Uploads(FileStore(sessions, FileBounds())).receive(owner, filename="f") as upload:
        await upload.write(b"x")
        file = await upload.finish(purpose="batch", expires_after_s=None)
    caller = Caller(
        tenant_id=app.tenant_id,
        tenant="theirs",
        app_id=app.id,
        app=app.name,
        api_key_id=UUID(int=3),
        instruction=None,
    )
    new = NewBatch(input_file_id=file.id, endpoint="/v1/chat/completions", window="24h")
    batch = await Batches(sessions, "model", BatchLimits(), lambda: None).create(caller, new)
    record = a_record(arrived_at=datetime.now(UTC), tenant_id=app.tenant_id, app_id=app.id)
    history = HistoryWriter(sessions, tmp_path)
    history.record(record)
    await history.flush()
    return {FILE: file.id, BATCH: batch.id, REQUEST: record.id}


def test_every_route_with_an_id_has_a_call(calls: Mapping[str, Any]) -> None:
    with_id = {route for route, role in ROUTES.items() if role == KEY and "{" in route}
    assert calls.keys() == (with_id - WITHOUT_ID) | {"POST /v1/batches"}


async def test_foreign_and_unknown_ids_get_the_same_error_by_the_same_statements(
    calls: Mapping[str, tuple[str, Call]],
    owned: Mapping[str, UUID],
    build: Builder,
    database: Database,
) -> None:
    mine = (await build.app()).tenant_id

    async def refused(call: Call, given: UUID) -> tuple[type[LmaasError], str, list[str]]:
        with counted(database) as statements, pytest.raises(NotFound) as caught:
            await call(mine, given)
        message = caught.value.message.replace(str(given), "ID").replace(given.hex, "ID")
        return type(caught.value), message, statements

    for route, (kind, call) in calls.items():
        foreign, unknown = await refused(call, owned[kind]), await refused(call, new_id())
        assert foreign == unknown, route
        assert foreign[2], route
