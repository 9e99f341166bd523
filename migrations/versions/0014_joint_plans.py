"""What joint plans need of lines: the pages of their prompts, and the outermost prefix."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("page_tokens", sa.Integer(), nullable=True))
    op.add_column("batch_lines", sa.Column("page_hashes", sa.LargeBinary(), nullable=True))
    op.add_column("batch_lines", sa.Column("outer_prefix_id", sa.Text(), nullable=True))
    op.add_column(
        "batch_lines",
        sa.Column("outer_prefix_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
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
    for column in ("page_hashes", "outer_prefix_id", "outer_prefix_tokens"):
        op.drop_column("batch_lines", column)
    op.drop_column("batches", "page_tokens")
