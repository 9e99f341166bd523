"""Files that clients uploaded or that batch jobs wrote, in chunks."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class StoredFile(Base):
    """A file of a tenant. Clients see it while it is `ready` and before `expires_at`.

    Expired rows are deleted in the background, whatever their state: `deleted` ones expired when
    they were deleted, `uploading` ones expire if their upload is cut off. `size_bytes` of an upload
    is what it may become at most, and `sha256` is null until it is complete.
    """

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint("state IN ('uploading', 'ready', 'deleted')", name="state_known"),
        Index(None, "tenant_id", "id"),
        Index(None, "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    # Who uploaded it. No foreign keys: a file outlives apps and keys.
    app_id: Mapped[UUID]
    api_key_id: Mapped[UUID]
    filename: Mapped[str]
    purpose: Mapped[str]
    state: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class FileChunk(Base):
    """A part of a file's bytes; all but the last have the same size."""

    __tablename__ = "file_chunks"

    file_id: Mapped[UUID] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]
