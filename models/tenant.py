"""Tenants, their apps, and the apps' API keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, func, text, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, new_id

PRESENT = text("deleted_at IS NULL")


class Tenant(Base):
    """An organisation or team that shares the engine with others.

    The row of a deleted one stays for its name, which another may have then: usage is shown by it.
    """

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("share > 0", name="share_positive"),
        Index("uq_tenants_name", "name", unique=True, postgresql_where=PRESENT),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    # Whether training may use its requests; if not, no features, embeddings and users are stored.
    learning: Mapped[bool] = mapped_column(default=True, server_default=true())
    # Weight against other waiting tenants: twice the share gets twice the tokens.
    share: Mapped[float] = mapped_column(default=1.0, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]

    apps: Mapped[list["App"]] = relationship(back_populates="tenant", lazy="raise")


class App(Base):
    """An application of a tenant; `instruction` is used for requests without a system message.

    The row of a deleted one stays for its name, as that of a tenant.
    """

    __tablename__ = "apps"
    __table_args__ = (
        CheckConstraint("share > 0", name="share_positive"),
        Index("uq_apps_tenant_id_name", "tenant_id", "name", unique=True, postgresql_where=PRESENT),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str]
    instruction: Mapped[str | None]
    # Weight against other waiting apps of the tenant: twice the share gets twice the tokens.
    share: Mapped[float] = mapped_column(default=1.0, server_default=text("1"))
    # Where keys and values may be of requests that do not say it, if the device cannot hold them.
    memory: Mapped[str] = mapped_column(default="device", server_default=text("'device'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]

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
    # Written now and then: the last use may be some minutes later.
    last_used_at: Mapped[datetime | None]
    # What requests may ask for; null: every tier, and any deadline.
    service_tiers: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    min_deadline_s: Mapped[float | None]

    app: Mapped[App] = relationship(back_populates="keys", lazy="raise")
