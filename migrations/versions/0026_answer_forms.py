"""The form of an answer, and whether its length was forced on the model.

Null in rows of earlier releases: their form is not known, and their lengths were not forced. The
columns are nullable: adding them rewrites no row, and the previous release can keep writing.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("form", sa.Text(), nullable=True))
    op.add_column("requests", sa.Column("forced", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "forced")
    op.drop_column("requests", "form")
