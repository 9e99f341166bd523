"""Which releases can use these tables, by the newest migration that each knows.

A migration after which earlier releases cannot go on deletes their rows here.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "compatible_releases",
        sa.Column("revision", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_compatible_releases")),
    )


def downgrade() -> None:
    op.drop_table("compatible_releases")
