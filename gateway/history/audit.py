"""The audit trail: who changed what, and when.

A change in the database and its entry are of one transaction; `gateway.database.audited_session`
lets none be committed without. Changes of a gateway's own state have entries by way of the spool.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from models import AuditEntry
from models.base import new_id


def note(
    session: AsyncSession,
    actor: str,
    action: str,
    subject: UUID | str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an entry to the trail in the caller's transaction: change and entry commit together."""
    session.add(
        AuditEntry(actor=actor, action=action, subject=str(subject), before=before, after=after)
    )


class SpooledEntry(Struct, frozen=True, kw_only=True, tag_field="kind", tag="audit_entry"):
    """An entry on its way through the spool, with the fields of `AuditEntry`."""

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        actor: str,
        action: str,
        subject: UUID | str,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> Self:
        """An entry of this moment."""
        return cls(
            id=new_id(),
            at=datetime.now(UTC),
            actor=actor,
            action=action,
            subject=str(subject),
            before=before,
            after=after,
        )


async def add_spooled(session: AsyncSession, entries: Sequence[SpooledEntry]) -> None:
    """Add entries of the spool, each once however often it is added."""
    statement = insert(AuditEntry).on_conflict_do_nothing()
    await session.execute(statement, [asdict(entry) for entry in entries])


class AuditTrail:
    """Reads the audit trail."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def list(
        self, limit: int, *, before: UUID | None = None, subject: str | None = None
    ) -> list[AuditEntry]:
        """The newest entries; if given, only those older than `before` and about `subject`."""
        statement = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(AuditEntry.id < before)
        if subject is not None:
            statement = statement.where(AuditEntry.subject == subject)
        async with transaction(self._sessions) as session:
            return [*await session.scalars(statement)]
