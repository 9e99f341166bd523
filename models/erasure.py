"""What is left to erase of deleted tenants and apps, and the version of all tenancy data."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class Erasure(Base):
    """The erasure of a deleted app's data or, without `app_id`, of a deleted tenant's.

    The row is deleted at its end. History is erased up to the row that arrived at `reached_at`;
    `rows`, `batches` and `files` were erased so far.
    """

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID]
    app_id: Mapped[UUID | None]
    actor: Mapped[str]
    reached_at: Mapped[datetime | None]
    reached_id: Mapped[UUID | None]
    rows: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    batches: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    files: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))


class TenancyVersion(Base):
    """One row, whose `version` rises with every change of tenants, apps and keys that matters to
    gateways.
    """

    __tablename__ = "tenancy_versions"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)
