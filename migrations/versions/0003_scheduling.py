"""Tenants' shares, and how each request was scheduled.

New columns are nullable or have a default, so adding them rewrites no row and the previous release
can keep writing. Finding a request by id needs no further index: the id contains its time, and the
arrival time leads the primary key.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("service_tier", sa.Text(), nullable=True),
        sa.Column("deadline_s", sa.Double(), nullable=True),
        sa.Column("policy_order", sa.Text(), nullable=True),
        sa.Column("queue_ahead", sa.Integer(), nullable=True),
        sa.Column("passed_by", sa.Integer(), nullable=True),
        sa.Column("expected_start_s", sa.Double(), nullable=True),
        sa.Column("expected_finish_s", sa.Double(), nullable=True),
        sa.Column("response_ratio", sa.Double(), nullable=True),
        sa.Column("overdue", sa.Boolean(), nullable=True),
        sa.Column("kv_free_pages", sa.Integer(), nullable=True),
        sa.Column("gave_up", sa.Text(), nullable=True),
    ]


def upgrade() -> None:
    op.add_column(
        "tenants", sa.Column("share", sa.Double(), server_default=sa.text("1"), nullable=False)
    )
    op.create_check_constraint(op.f("ck_tenants_share_positive"), "tenants", "share > 0")
    for column in _columns():
        op.add_column("requests", column)


def downgrade() -> None:
    for column in reversed(_columns()):
        op.drop_column("requests", column.name)
    op.drop_constraint(op.f("ck_tenants_share_positive"), "tenants", type_="check")
    op.drop_column("tenants", "share")
