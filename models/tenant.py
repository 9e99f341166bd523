"""Tenants, their apps, and the API keys that speak for an app."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text, true
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, new_id


class Tenant(Base):
    """Who pays."""

    __tablename__ = "tenants"
    __table_args__ = (CheckConstraint("share > 0", name="share_positive"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    # Whether its requests may be learned from; without it no feature, embedding or user is kept.
    learning: Mapped[bool] = mapped_column(default=True, server_default=true())
    # Its weight among tenants that wait for the same engine: twice the share, twice the tokens.
    share: Mapped[float] = mapped_column(default=1.0, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    apps: Mapped[list["App"]] = relationship(back_populates="tenant", lazy="raise")


class App(Base):
    """One application of a tenant; its instruction serves requests that bring none."""

    __tablename__ = "apps"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str]
    instruction: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    tenant: Mapped[Tenant] = relationship(back_populates="apps", lazy="raise")
    keys: Mapped[list["ApiKey"]] = relationship(back_populates="app", lazy="raise")


class ApiKey(Base):
    """A secret that speaks for an app. Only its SHA-256 is kept; `prefix` tells keys apart."""

    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "app_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    app_id: Mapped[UUID] = mapped_column(ForeignKey("apps.id", ondelete="CASCADE"))
    name: Mapped[str]
    prefix: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]

    app: Mapped[App] = relationship(back_populates="keys", lazy="raise")
