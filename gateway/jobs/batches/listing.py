"""Lists the batch jobs of all tenants, for operators."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Select, func, select

from gateway.database.errors import Sessions, transaction
from gateway.history.subjects import find_subjects
from gateway.jobs.batches.states import Status
from gateway.tenancy.paging import Cursor, Page
from models import App, Batch, Tenant

# Never what clients wrote, as the metadata, nor the notes of progress, which are most of a row.
COLUMNS: Final = (
    Batch.id,
    Batch.tenant_id,
    Tenant.name.label("tenant"),
    Batch.app_id,
    App.name.label("app"),
    Batch.model,
    Batch.endpoint,
    Batch.completion_window,
    Batch.status,
    Batch.created_at,
    Batch.in_progress_at,
    Batch.expires_at,
    func.coalesce(Batch.completed_at, Batch.failed_at, Batch.expired_at, Batch.cancelled_at).label(
        "ended_at"
    ),
    Batch.total,
    Batch.completed,
    Batch.failed,
    Batch.input_tokens,
    Batch.output_tokens,
    Batch.attempts,
    Batch.retry_at,
    Batch.errors[0]["message"].astext.label("error"),
)


class ListedBatch(Struct, frozen=True, kw_only=True):
    """A batch job, whose client knows it as `batch_` and the 32 digits of its `id`.

    `total`, `completed` and `failed` count lines; the tokens are those of completed lines.
    `attempts` of validating it or of writing its files have failed since that was begun, and the
    next is at `retry_at`. `error` is the first reason for which it failed.
    """

    id: UUID
    tenant_id: UUID
    tenant: str
    app_id: UUID
    app: str
    model: str
    endpoint: str
    completion_window: str
    status: Status
    created_at: datetime
    in_progress_at: datetime | None
    expires_at: datetime
    ended_at: datetime | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    attempts: int
    retry_at: datetime | None
    error: str | None


class AllBatches:
    """The jobs of all tenants and models."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def list(
        self, cursor: Cursor, *, tenant: str | None = None, status: Status | None = None
    ) -> Page[ListedBatch]:
        """Jobs, newest first: of the tenant of this id or name, and in this status; None: all."""
        wanted: Select[Any] = (
            select(*COLUMNS)
            .join(Tenant, Tenant.id == Batch.tenant_id)
            .join(App, App.id == Batch.app_id)
            .order_by(Batch.id.desc())
            .limit(cursor.limit + 1)
        )
        if status is not None:
            wanted = wanted.where(Batch.status == status)
        if cursor.after is not None:
            wanted = wanted.where(Batch.id < cursor.after)
        async with transaction(self._sessions) as session:
            if tenant is not None:
                subjects = await find_subjects(session, tenant, None, None)
                wanted = wanted.where(Batch.tenant_id.in_(subjects.ids))
            rows = await session.execute(wanted)
            found = [ListedBatch(**row._mapping) for row in rows]  # noqa: SLF001  public API
        return cursor.page(found)
