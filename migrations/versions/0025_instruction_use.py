"""When an instruction was last used, so that its embedding can be deleted when it is no more.

Adding the column rewrites no row; what is there counts as used now.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    now = sa.text("now()")
    column = sa.Column("used_at", sa.DateTime(timezone=True), server_default=now, nullable=False)
    op.add_column("instructions", column)
    op.create_index(op.f("ix_instructions_used_at"), "instructions", ["used_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_instructions_used_at"), "instructions")
    op.drop_column("instructions", "used_at")
