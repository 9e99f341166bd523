"""Where the keys and values of an app's requests may be."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0029"
down_revision: str | None = "0028"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("apps", sa.Column("memory", sa.Text(), server_default="device", nullable=False))


def downgrade() -> None:
    op.drop_column("apps", "memory")
