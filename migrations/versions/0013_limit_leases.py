"""Accounts of limits that gateways share, and their leases."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KEY = ("limit_id", "user_digest", "period_start")


def key_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("limit_id", sa.Uuid(), nullable=False),
        sa.Column("user_digest", sa.LargeBinary(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "limit_accounts",
        *key_columns(),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.Float(), nullable=False),
        sa.Column(
            "filled_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["limit_id"],
            ["limits.id"],
            name=op.f("fk_limit_accounts_limit_id_limits"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(*KEY, name=op.f("pk_limit_accounts")),
    )
    op.create_table(
        "limit_leases",
        *key_columns(),
        sa.Column("owner", sa.Uuid(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            KEY,
            [f"limit_accounts.{column}" for column in KEY],
            name=op.f("fk_limit_leases_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(*KEY, "owner", name=op.f("pk_limit_leases")),
    )


def downgrade() -> None:
    op.drop_table("limit_leases")
    op.drop_table("limit_accounts")
