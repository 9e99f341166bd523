"""Creates, lists, shows and cancels the batch jobs of a tenant."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, now_of, transaction
from gateway.errors import Conflict, NotFound, TenantBatchesFull, shortened
from gateway.jobs.batches.claims.attempts import set_untried
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.states import CANCELLABLE, OPEN, WINDOW_S, Window
from gateway.tenancy.caller import Caller
from gateway.tenancy.paging import Cursor, Page, read_page
from gateway.tenancy.tenants import lock_tenant
from models import Batch


class NewBatch(Struct, frozen=True, kw_only=True):
    """A job to create."""

    input_file_id: UUID
    endpoint: str
    window: Window
    metadata: dict[str, str] | None = None
    output_expires_s: int | None = None


class Batches:
    """The jobs of all tenants; a tenant sees its own alone. `wake` is called after a change."""

    def __init__(
        self, sessions: Sessions, model: str, limits: BatchLimits, wake: Callable[[], None]
    ) -> None:
        self._sessions = sessions
        self._model = model
        self._limits = limits
        self._wake = wake

    async def create(self, caller: Caller, new: NewBatch) -> Batch:
        """A job that is going to be validated. TenantBatchesFull."""
        async with transaction(self._sessions) as session:
            await self._check_open(session, caller)
            now = await now_of(session)
            batch = Batch(
                tenant_id=caller.tenant_id,
                app_id=caller.app_id,
                api_key_id=caller.api_key_id,
                model=self._model,
                endpoint=new.endpoint,
                completion_window=new.window,
                labels=new.metadata,
                input_file_id=new.input_file_id,
                output_expires_s=new.output_expires_s,
                status="validating",
                created_at=now,
                expires_at=now + timedelta(seconds=WINDOW_S[new.window]),
            )
            session.add(batch)
            await session.flush()
            await session.refresh(batch)
        self._wake()
        return batch

    async def list(self, tenant_id: UUID, cursor: Cursor) -> Page[Batch]:
        """A tenant's jobs, newest first."""
        own = Batch.tenant_id == tenant_id
        async with transaction(self._sessions) as session:
            return await read_page(session, Batch, cursor, own, newest_first=True)

    async def show(self, tenant_id: UUID, batch_id: UUID) -> Batch:
        """One job. NotFound, also for another tenant's."""
        async with transaction(self._sessions) as session:
            return await _find(session, tenant_id, batch_id)

    async def cancel(self, tenant_id: UUID, batch_id: UUID) -> Batch:
        """The job, which is cancelled soon after. NotFound; Conflict if it is ending already.

        A job that is being cancelled stays so.
        """
        async with transaction(self._sessions) as session:
            batch = await _find(session, tenant_id, batch_id, lock=True)
            if batch.status not in (*CANCELLABLE, "cancelling"):
                raise Conflict(f"the batch is {batch.status}; it cannot be cancelled any more")
            if batch.status != "cancelling":
                batch.status, batch.outcome, batch.owner = "cancelling", "cancelled", None
                batch.cancelling_at = await now_of(session)
                set_untried(batch)
        self._wake()
        return batch

    async def work_before(self, batches: Sequence[Batch]) -> dict[UUID, float]:
        """For each open job, the predicted work left of jobs that end earlier; in tokens."""
        left = (Batch.work - Batch.work_done).label("left")
        statement = select(Batch.id, Batch.expires_at, left).where(
            Batch.status.in_(OPEN), Batch.model == self._model
        )
        if not any(batch.status in OPEN for batch in batches):
            return {}
        async with transaction(self._sessions) as session:
            others: Sequence[Any] = (await session.execute(statement)).all()
        return {
            batch.id: sum(
                other.left
                for other in others
                if (other.expires_at, other.id) < (batch.expires_at, batch.id)
            )
            for batch in batches
        }

    async def _check_open(self, session: AsyncSession, caller: Caller) -> None:
        """TenantBatchesFull if the tenant has as many open jobs as it may; locks the tenant."""
        await lock_tenant(session, caller.tenant_id, caller.app_id)
        own = (Batch.tenant_id == caller.tenant_id, Batch.status.in_(OPEN))
        counted = select(func.count()).where(*own)
        count = (await session.execute(counted)).scalar_one()
        if count >= self._limits.tenant_batches:
            raise TenantBatchesFull(
                f"{count} batches of this tenant have not ended; the limit is "
                f"{self._limits.tenant_batches}",
                should_retry=False,
            )


def no_batch(batch_id: str) -> NotFound:
    """The error for an unknown id."""
    return NotFound(f"there is no batch {shortened(batch_id)!r}", param="batch_id")


async def _find(
    session: AsyncSession, tenant_id: UUID, batch_id: UUID, *, lock: bool = False
) -> Batch:
    statement = select(Batch).where(Batch.id == batch_id, Batch.tenant_id == tenant_id)
    found = await session.scalar(statement.with_for_update() if lock else statement)
    if found is None:
        raise no_batch(f"batch_{batch_id.hex}")
    return found
