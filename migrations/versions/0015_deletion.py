"""Deleted tenants and apps, whose names are free again; what the erasure of their data has reached.

Rows of deleted tenants and apps stay: usage is shown under their names.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

PRESENT = sa.text("deleted_at IS NULL")
UNIQUE = {"tenants": ["name"], "apps": ["tenant_id", "name"]}


def upgrade() -> None:
    for table, columns in UNIQUE.items():
        op.add_column(table, sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        name = op.f(f"uq_{table}_{'_'.join(columns)}")
        op.drop_constraint(name, table, type_="unique")
        op.create_index(name, table, columns, unique=True, postgresql_where=PRESENT)
    op.create_table(
        "erasures",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reached_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reached_id", sa.Uuid(), nullable=True),
        sa.Column("rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("batches", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("files", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasures")),
    )
    op.create_table(
        "tenancy_versions",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenancy_versions")),
    )


def downgrade() -> None:
    op.drop_table("tenancy_versions")
    op.drop_table("erasures")
    # The release before knows no deleted rows, and would admit their names' owners again.
    for table in ("apps", "tenants"):
        op.execute(f"DELETE FROM {table} WHERE deleted_at IS NOT NULL")  # noqa: S608  a constant
    for table, columns in UNIQUE.items():
        name = op.f(f"uq_{table}_{'_'.join(columns)}")
        op.drop_index(name, table_name=table)
        op.create_unique_constraint(name, table, columns)
        op.drop_column(table, "deleted_at")
