"""Limits on use."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OWNERS = {"tenant_id": "tenants", "app_id": "apps", "api_key_id": "api_keys"}
IDENTITY = ("level", *OWNERS, "quantity", "period", "effect")


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        *(sa.Column(column, sa.Uuid(), nullable=True) for column in OWNERS),
        sa.Column("quantity", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_limits_amount_positive")),
        sa.CheckConstraint(
            "num_nonnulls(tenant_id, app_id, api_key_id) = (level <> 'node')::int",
            name=op.f("ck_limits_owner"),
        ),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_limits_{column}_{table}"),
                ondelete="CASCADE",
            )
            for column, table in OWNERS.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_limits")),
        sa.UniqueConstraint(
            *IDENTITY, name=op.f("uq_limits_bounded"), postgresql_nulls_not_distinct=True
        ),
    )  # fmt: skip
    for column in OWNERS:
        op.create_index(op.f(f"ix_limits_{column}"), "limits", [column])


def downgrade() -> None:
    op.drop_table("limits")
