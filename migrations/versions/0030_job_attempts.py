"""How often the work on a batch job was begun, and when it may be begun again."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0030"
down_revision: str | None = "0029"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    attempts = sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False)
    op.add_column("batches", attempts)
    op.add_column("batches", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "retry_at")
    op.drop_column("batches", "attempts")
