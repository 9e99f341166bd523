"""What a version predicted before it had read a request's embedding.

It calibrates such predictions after a restart. The column is nullable: adding it rewrites no row,
and the previous release can keep writing.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("first_scored", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "first_scored")
