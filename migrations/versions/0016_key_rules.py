"""When API keys were last used, and the service tiers and deadlines that they allow."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("service_tiers", ARRAY(sa.Text()), nullable=True))
    op.add_column("api_keys", sa.Column("min_deadline_s", sa.Double(), nullable=True))


def downgrade() -> None:
    for column in ("min_deadline_s", "service_tiers", "last_used_at"):
        op.drop_column("api_keys", column)
