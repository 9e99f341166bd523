"""The pages of queued lines, so that jobs of one tenant are planned together."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("page_tokens", sa.Integer(), nullable=True))
    op.add_column("batch_lines", sa.Column("page_hashes", sa.LargeBinary(), nullable=True))
    # Hashes do not compress.
    op.execute("ALTER TABLE batch_lines ALTER page_hashes SET STORAGE EXTERNAL")
    op.create_index(
        "ix_batch_lines_sharing",
        "batch_lines",
        ["batch_id", "prefix_id"],
        postgresql_where=sa.text("state = 0 AND prefix_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_batch_lines_sharing", table_name="batch_lines")
    op.drop_column("batch_lines", "page_hashes")
    op.drop_column("batches", "page_tokens")
