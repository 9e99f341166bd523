"""The audit log: who changed what, and when."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class AuditEntry(Base):
    """A change by an operator or by the training schedule; `subject` is the changed id or name."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "subject", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
