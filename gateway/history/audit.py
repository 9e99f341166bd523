"""The audit trail: who changed what, and when."""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from models import AuditEntry


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
