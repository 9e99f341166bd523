"""Limits on the use of a tenant, an app, a key, an app's users or the whole node."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class StoredLimit(Base):
    """A `gateway.limits.limit.Limit`. Its owner is the one of the three ids that is set.

    A limit of level `user` has the app; that of the node has none. `amount` is in the whole units
    of its quantity.
    """

    __tablename__ = "limits"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint(
            "num_nonnulls(tenant_id, app_id, api_key_id) = (level <> 'node')::int", name="owner"
        ),
        UniqueConstraint(
            "level",
            "tenant_id",
            "app_id",
            "api_key_id",
            "quantity",
            "period",
            "effect",
            name="uq_limits_bounded",
            postgresql_nulls_not_distinct=True,
        ),
        Index(None, "tenant_id"),
        Index(None, "app_id"),
        Index(None, "api_key_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    level: Mapped[str]
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    app_id: Mapped[UUID | None] = mapped_column(ForeignKey("apps.id", ondelete="CASCADE"))
    api_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    quantity: Mapped[str]
    period: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    effect: Mapped[str]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def owner(self) -> UUID | None:
        """The id of the tenant, app or key; None for the node."""
        return self.tenant_id or self.app_id or self.api_key_id
