"""Jobs count the prompt tokens that were not computed; 0 for lines that ended before."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0023"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    zero = sa.text("0")
    column = sa.Column("cached_tokens", sa.BigInteger(), server_default=zero, nullable=False)
    op.add_column("batches", column)


def downgrade() -> None:
    op.drop_column("batches", "cached_tokens")
