"""An app's weight against the other apps of its tenant."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("apps", sa.Column("share", sa.Float(), server_default="1", nullable=False))
    op.create_check_constraint("share_positive", "apps", "share > 0")


def downgrade() -> None:
    op.drop_column("apps", "share")
