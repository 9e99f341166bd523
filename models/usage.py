"""Prices of tokens, and usage by day."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Numeric, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id

NO_PRICE = UUID(int=0)


class Price(Base):
    """What a million tokens of a model cost, from `valid_from` until before `valid_until`.

    `service_tier` null: of every tier that has no price of its own. All prices of a database are in
    one currency.
    """

    __tablename__ = "prices"
    __table_args__ = (
        CheckConstraint("valid_until > valid_from", name="valid"),
        CheckConstraint("input >= 0 AND cached_input >= 0 AND output >= 0", name="not_negative"),
        Index(None, "model", "valid_from"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model: Mapped[str]
    service_tier: Mapped[str | None]
    input: Mapped[Decimal] = mapped_column(Numeric(20, 10))
    cached_input: Mapped[Decimal] = mapped_column(Numeric(20, 10))
    output: Mapped[Decimal] = mapped_column(Numeric(20, 10))
    valid_from: Mapped[datetime]
    valid_until: Mapped[datetime | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UsageSums:
    """Columns of sums of usage: what was used in a UTC day of a key, at one price.

    `service_tier` is empty, and `price_id` is `NO_PRICE`, where there is none. No foreign keys:
    usage outlives tenants, apps and keys.
    """

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    app_id: Mapped[UUID] = mapped_column(primary_key=True)
    api_key_id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    service_tier: Mapped[str] = mapped_column(primary_key=True)
    price_id: Mapped[UUID] = mapped_column(primary_key=True)

    requests: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    generation_tokens: Mapped[int] = mapped_column(BigInteger)


class UsageDay(UsageSums, Base):
    """Usage of one UTC day by one key and user, at one price; triggers of `requests` keep it.

    `end_user` is empty where there is none.
    """

    __tablename__ = "usage_days"
    __table_args__ = (Index(None, "day"), Index(None, "api_key_id", "day"))

    end_user: Mapped[str] = mapped_column(primary_key=True)


class KeyUsageDay(UsageSums, Base):
    """Usage of one UTC day by one key, at one price: the sum over its users, by the same triggers.

    It has few rows, however many users there are.
    """

    __tablename__ = "key_usage_days"
    __table_args__ = (Index(None, "day"), Index(None, "api_key_id", "day"))
