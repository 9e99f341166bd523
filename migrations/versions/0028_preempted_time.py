"""How long a request was preempted while it ran; null in rows of earlier releases."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0028"
down_revision: str | None = "0027"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("preempted_s", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "preempted_s")
