"""The gateway process that served a request: a new id at each start.

The column is nullable, so adding it rewrites no row and the previous release can keep writing.
Rows of earlier releases have none.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("gateway_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "gateway_id")
