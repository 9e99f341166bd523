"""Erasure of the learning data of a tenant, of one of its apps, or of one of its users.

Usage, the token counts per tenant, is kept. Erased are features, embeddings, the instruction's hash
and the user's name; for a whole tenant also the embeddings of instructions that no other request
uses. Every version drops the kernels of the apps concerned, those of texts and those of
embeddings, and the embeddings of their instructions: until the next training it predicts their
lengths from lines and trees alone.
Rows are erased in batches, each in its own transaction, to keep locks short.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.errors import NotFound
from gateway.history.audit import note
from gateway.prediction.lifecycle.registry import Registry
from models import App, Tenant

BATCH_ROWS: Final = 5_000  # rows
Place: TypeAlias = tuple[datetime, UUID]  # of a row in history
BEGINNING: Final[Place] = (datetime.fromtimestamp(0, UTC), UUID(int=0))

# A row without features may still name its user: another feature version, or cut off at once.
_ERASE: Final = """
    WITH old AS (
        SELECT arrived_at, id, app_id, instruction_hash FROM requests
        WHERE tenant_id = :tenant AND {condition}
          AND arrived_at >= :at AND (arrived_at, id) > (:at, :id)
          AND (feature_version > 0 OR end_user IS NOT NULL OR octet_length(features) > 0)
        ORDER BY arrived_at, id LIMIT :portion
    ), erased AS (
        UPDATE requests
        SET feature_version = 0, features = '', first_scored = NULL, embedding = NULL,
            input_embedding = NULL, embedder = NULL, end_user = NULL, instruction_hash = ''
        FROM old WHERE requests.arrived_at = old.arrived_at AND requests.id = old.id
        RETURNING old.arrived_at, old.id, old.app_id, old.instruction_hash
    )
    SELECT * FROM erased ORDER BY arrived_at, id
"""
_OF_TENANT: Final = text(_ERASE.format(condition="TRUE"))
_OF_USER: Final = text(_ERASE.format(condition="end_user = :user"))
_OF_APP: Final = text(_ERASE.format(condition="app_id = :app"))
_DELETE_INSTRUCTIONS: Final = text("""
    DELETE FROM instructions
    WHERE hash = ANY(:hashes)
      AND hash NOT IN (SELECT instruction_hash FROM requests WHERE instruction_hash = ANY(:hashes))
""")
_DELETE_UNUSED_INSTRUCTIONS: Final = text("""
    DELETE FROM instructions
    WHERE NOT EXISTS (SELECT FROM requests WHERE instruction_hash = instructions.hash)
""")


class Erased(Struct, frozen=True):
    """The numbers of history rows and instruction embeddings erased, and of versions changed."""

    rows: int
    instructions: int
    predictors: int


class SampleErasure:
    """Erases learning data."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def erase(self, tenant_id: UUID, user: str | None, *, by: str) -> Erased:
        """Erase all rows of a tenant, or those of one user of its apps. NotFound.

        The audit trail records the numbers, not the user's name. Records that the history writer
        still buffers, about 0.1 s of requests, are written afterwards and not erased.
        """
        async with transaction(self._sessions) as session:
            tenant = await session.get(Tenant, tenant_id)
            if tenant is None or tenant.deleted_at is not None:
                raise NotFound(f"there is no tenant {tenant_id}", param="tenant_id")
        rows, hashes, apps = await self._erase_rows(tenant_id, user)
        if user is None:
            async with transaction(self._sessions) as session:
                apps |= {*await session.scalars(select(App.id).where(App.tenant_id == tenant_id))}
        predictors = await Registry(self._sessions).forget_texts(apps, by) if apps else 0
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            forgotten = 0
            if user is None and hashes:
                done: Any = await session.execute(_DELETE_INSTRUCTIONS, {"hashes": sorted(hashes)})
                forgotten = done.rowcount
            erased = Erased(rows, forgotten, predictors)
            after = {"rows": rows, "instructions": forgotten, "predictors": predictors}
            condition = "tenant" if user is None else "user"
            note(session, by, "samples.erased", tenant_id, after={"of": condition, **after})
        return erased

    async def _erase_rows(
        self, tenant_id: UUID, user: str | None
    ) -> tuple[int, set[bytes], set[UUID]]:
        """The number of rows erased, the hashes of their instructions, and their apps."""
        last: Place = BEGINNING
        rows, hashes, apps = 0, set[bytes](), set[UUID]()
        while True:
            async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
                erased = await erase_portion(session, tenant_id, last, user=user)
            if not erased:
                return rows, hashes, apps
            last = erased[-1].arrived_at, erased[-1].id
            rows += len(erased)
            apps |= {each.app_id for each in erased}
            hashes |= {bytes(each.instruction_hash) for each in erased} - {b""}


async def erase_portion(
    session: AsyncSession,
    tenant_id: UUID,
    after: Place,
    *,
    user: str | None = None,
    app_id: UUID | None = None,
    rows: int = BATCH_ROWS,
) -> Sequence[Any]:
    """Erase the next rows of a tenant in order of arrival, or only those of one user or app.

    What was erased before is passed over. The rows have `arrived_at`, `id`, `app_id` and what was
    their `instruction_hash`.
    """
    statement = _OF_TENANT
    if user is not None:
        statement = _OF_USER
    elif app_id is not None:
        statement = _OF_APP
    owner = {"tenant": tenant_id, "user": user, "app": app_id}
    place = {"at": after[0], "id": after[1], "portion": rows}
    return (await session.execute(statement, owner | place)).all()


async def delete_unused_instructions(session: AsyncSession) -> int:
    """Delete the embeddings of instructions that no request has any more; their number."""
    done: Any = await session.execute(_DELETE_UNUSED_INSTRUCTIONS)
    return int(done.rowcount)
