"""Tenants, their apps, and the apps' API keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text, true
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, new_id


class Tenant(Base):
    """An organisation or team that shares the engine with others."""

    __tablename__ = "tenants"
    __table_args__ = (CheckConstraint("share > 0", name="share_positive"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    # Whether training may use its requests; if not, no features, embeddings and users are stored.
    learning: Mapped[bool] = mapped_column(default=True, server_default=true())
    # Weight against other waiting tenants: twice the share gets twice the tokens.
    share: Mapped[float] = mapped_column(default=1.0, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    apps: Mapped[list["App"]] = relationship(back_populates="tenant", lazy="raise")


class App(Base):
    """An application of a tenant; `instruction` is used for requests without a system message."""

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
    """A key of an app. Only its SHA-256 is stored; lists show `prefix`."""

    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "app_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    app_id: Mapped[UUID] = mapped_column(ForeignKey("apps.id", ondelete="CASCADE"))
    name: Mapped[str]
    prefix: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # by any gateway, half a minute late

    app: Mapped[App] = relationship(back_populates="keys", lazy="raise")
