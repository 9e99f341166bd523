"""The sentence embedding of a request's user input, and which embedder made an embedding.

The columns of `requests` are nullable, so adding them rewrites no row and the previous release can
keep writing. Embeddings of instructions are kept per embedder; those that the previous release
wrote, or still writes, have the name '' and are not read: instructions are embedded again as
requests bring them.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("input_embedding", sa.LargeBinary(), nullable=True))
    op.add_column("requests", sa.Column("embedder", sa.Text(), nullable=True))
    op.add_column(
        "instructions",
        sa.Column("embedder", sa.Text(), server_default=sa.text("''"), nullable=False),
    )
    op.drop_constraint("pk_instructions", "instructions")
    op.create_primary_key("pk_instructions", "instructions", ["hash", "embedder"])


def downgrade() -> None:
    op.execute("DELETE FROM instructions WHERE embedder <> ''")
    op.drop_constraint("pk_instructions", "instructions")
    op.create_primary_key("pk_instructions", "instructions", ["hash"])
    op.drop_column("instructions", "embedder")
    op.drop_column("requests", "embedder")
    op.drop_column("requests", "input_embedding")
