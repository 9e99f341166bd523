"""Limits on the use of a tenant, an app, a key, an app's users or the whole node."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    func,
)
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


class LimitAccount(Base):
    """What all gateways together used of a limit in a period, for one user or for all.

    `user_digest` is the SHA-256 of the user's name for a limit of each user, else empty. Of a
    budget, `used` counts leases that have ended; of a limit of a minute, `level` is what its bucket
    had at `filled_at`.
    """

    __tablename__ = "limit_accounts"

    limit_id: Mapped[UUID] = mapped_column(
        ForeignKey("limits.id", ondelete="CASCADE"), primary_key=True
    )
    user_digest: Mapped[bytes] = mapped_column(primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
    level: Mapped[float]
    filled_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LimitLease(Base):
    """The part of a budget that a gateway may use, and what it has used of it so far.

    After `expires_at` another gateway may take back what was not used.
    """

    __tablename__ = "limit_leases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["limit_id", "user_digest", "period_start"],
            [
                "limit_accounts.limit_id",
                "limit_accounts.user_digest",
                "limit_accounts.period_start",
            ],
            name="fk_limit_leases_account",
            ondelete="CASCADE",
        ),
    )

    limit_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_digest: Mapped[bytes] = mapped_column(primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    owner: Mapped[UUID] = mapped_column(primary_key=True)
    granted: Mapped[int] = mapped_column(BigInteger)
    used: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]
